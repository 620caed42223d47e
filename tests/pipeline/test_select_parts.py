"""Parts of a list become selections, which share their source's encoding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import edgewright as ew
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.passes.select_parts import SelectParts

aten, quantized_ops = torch.ops.aten, torch.ops.quantized_decomposed


class Parts(nn.Module):
    def __init__(self, take: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.dense, self.take = nn.Linear(12, 14), take

    def forward(self, x: Tensor) -> Tensor:
        parts = self.take(self.dense(x))
        return parts[0] @ parts[1].transpose(-1, -2) + parts[-1].sum()


TAKES: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "unbind": lambda y: y.reshape(4, 2, 7).unbind(1),
    "split": lambda y: y.split(5, dim=-1),
    "split_with_sizes": lambda y: y.split([6, 6, 2], dim=-1),
    "chunk": lambda y: y.chunk(4, dim=-1)[:2],
}


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
def test_every_part_becomes_a_selection_and_no_number_changes(take: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
    torch.manual_seed(0)
    program = ew.capture(Parts(take), (torch.randn(4, 12),))
    result = run_passes(program, [SelectParts()])
    assert result.reports[0].report.rewrites >= 2
    targets = {node.target for node in result.program.graph.nodes}
    assert not targets & {aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default}
    sample = {program.inputs[0].name: torch.randn(4, 12)}
    assert torch.equal(result.program.run(sample)["output_0"], program.run(sample)["output_0"])


def test_the_parts_of_a_quantized_layer_are_not_rounded_again() -> None:
    torch.manual_seed(0)
    program = ew.capture(Parts(TAKES["unbind"]), (torch.randn(4, 12),))
    batches = [{program.inputs[0].name: torch.randn(4, 12)} for _ in range(4)]
    compressed = ew.compress(program, [{"pass": "quantize", "scheme": "w8a8"}], batches=batches).program
    quantize = quantized_ops.quantize_per_tensor.default
    product = next(node for node in compressed.graph.nodes if node.target is aten.matmul.default)
    scales = set()
    for side in product.args[:2]:
        while side.target is not aten.linear.default:
            scales |= {side.args[1:3]} if side.target is quantize else set()
            side = side.args[0]
    assert len(scales) == 1
