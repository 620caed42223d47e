"""Positions are added before class tokens and patches are joined: the same numbers, and no shared encoding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import edgewright as ew
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.add_before_cat import AddBeforeCat
from edgewright.pipeline.passes.runner import run_passes

aten = torch.ops.aten


class Tokens(nn.Module):
    """The embedding of a vision transformer, with a class token as small as trained ones can be."""

    def __init__(self, join: Callable[[Tensor, Tensor, Tensor], Tensor], positions: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.join = nn.Conv2d(3, 8, 4, 4), join
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, 8))
        self.positions = nn.Parameter(0.02 * torch.randn(positions))
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        return self.head(torch.nn.functional.layer_norm(self.join(self.token, patches, self.positions), (8,)))


def standard(token: Tensor, patches: Tensor, positions: Tensor) -> Tensor:
    return torch.cat([token, patches], 1) + positions


def rewritten(model: Tokens) -> tuple[int, float]:
    image = torch.randn(1, 3, 16, 16)
    program = ew.capture(model.eval(), (image,))
    result = run_passes(program, [AddBeforeCat()])
    before, after = (next(iter(one.run({"image": image}).values())).numpy() for one in (program, result.program))
    return result.reports[0].report.rewrites, sqnr_db(before, after)


def test_positions_are_added_to_token_and_patches() -> None:
    rewrites, db = rewritten(Tokens(standard, (1, 17, 8)))
    assert rewrites == 1
    assert db > 120.0


@pytest.mark.parametrize(
    ("join", "positions"),
    [
        (lambda t, x, p: torch.cat([t, x], 1) + p, (1, 1, 8)),  # one vector for all places
        (lambda t, x, p: torch.cat([x[:, :1], x], 1) + p, (1, 17, 8)),  # nothing constant
        (lambda t, x, p: (y := torch.cat([t, x], 1)) + p + y, (1, 17, 8)),  # a second reader
        (lambda t, x, p: torch.add(torch.cat([t, x], 1), p, alpha=2), (1, 17, 8)),
    ],
)
def test_what_has_another_form_stays(
    join: Callable[[Tensor, Tensor, Tensor], Tensor], positions: tuple[int, ...]
) -> None:
    assert rewritten(Tokens(join, positions)) == (0, 200.0)


def test_a_small_class_token_survives_quantization() -> None:
    model = Tokens(standard, (1, 17, 8)).eval()
    batches = [{"image": 4 * torch.randn(1, 3, 16, 16)} for _ in range(4)]
    program = ew.capture(model, batches[0])
    compressed = ew.compress(program, [{"pass": "quantize", "scheme": "w8a8"}], batches=batches).program
    (output,) = (spec.name for spec in program.outputs)
    first = [one.run(batches[0])[output][:, 0].numpy() for one in (program, compressed)]
    assert sqnr_db(*first) > 35.0
