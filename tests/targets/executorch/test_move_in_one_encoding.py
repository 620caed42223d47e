"""Moves between two encodings: XNNPACK's delegate does not load with them, so they are rounded before."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.pipeline.capture import capture
from edgewright.pipeline.lowering import lower
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.program import Program
from edgewright.targets import get_target
from edgewright.targets.executorch.move_in_one_encoding import MoveInOneEncoding

BEFORE, OTHER, BEHIND = (0.02, 3), (0.013, 7), (0.017, -5)
MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "cat": lambda x: torch.cat([x, rounded(-x, *OTHER)], 1),
    "cat of six": lambda x: torch.cat([x, *(rounded(x * 0.1 * place, *OTHER) for place in range(1, 6))], 1),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "reshape": lambda x: x.reshape(1, 4, 36),
    "slice": lambda x: x[:, 1:3],
    "transpose": lambda x: x.transpose(1, 2),
    "unsqueeze": lambda x: x.unsqueeze(-1),
}


def rounded(value: Tensor, scale: float, zero_point: int) -> Tensor:
    quantized, encoding = torch.ops.quantized_decomposed, (scale, zero_point, -128, 127, torch.int8)
    result: Tensor = quantized.dequantize_per_tensor(quantized.quantize_per_tensor(value, *encoding), *encoding)
    return result


class Moved(nn.Module):
    """A move that reads one encoding and is stored in another."""

    def __init__(self, move: Callable[[Tensor], Tensor], behind: tuple[float, int]) -> None:
        super().__init__()
        self.move, self.behind = move, behind

    def forward(self, x: Tensor) -> Tensor:
        return rounded(self.move(rounded(x, *BEFORE)), *self.behind)


def program_of(move: str, behind: tuple[float, int] = BEHIND) -> tuple[Program, dict[str, Tensor]]:
    batch = {"x": torch.rand((1, 4, 6, 6), generator=torch.Generator().manual_seed(1)) * 4 - 2}
    return capture(Moved(MOVES[move], behind).eval(), batch), batch


@pytest.mark.parametrize("move", list(MOVES))
def test_it_gives_every_move_one_encoding_and_keeps_the_numbers(move: str) -> None:
    program, batch = program_of(move)
    ran = run_passes(program, [MoveInOneEncoding()])
    assert ran.reports[0].report.rewrites == 1
    assert torch.equal(ran.program.run(batch)["output_0"], program.run(batch)["output_0"])
    assert run_passes(ran.program, [MoveInOneEncoding()]).reports[0].report.rewrites == 0, "once is enough"


def test_it_leaves_moves_within_one_encoding_alone() -> None:
    program, _ = program_of("slice", behind=BEFORE)
    assert run_passes(program, [MoveInOneEncoding()]).reports[0].report.rewrites == 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="executorch is not installed")
@pytest.mark.parametrize("move", list(MOVES))
def test_files_with_such_moves_load_and_are_exact(move: str, tmp_path: Path) -> None:
    program, batch = program_of(move)
    artifact = lower(program, "executorch", tmp_path)
    with get_target("executorch").open(artifact) as session:
        found = session.run({name: value.numpy() for name, value in batch.items()})
    assert torch.equal(torch.from_numpy(found["output_0"]), program.run(batch)["output_0"])
