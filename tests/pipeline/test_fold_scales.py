"""Constant factors and offsets of channels go into the layer before them; what is no such constant stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgewright.pipeline.capture import capture
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.fold_scales import FoldScales
from edgewright.pipeline.passes.runner import run_passes

aten = torch.ops.aten


class Scaled(nn.Module):
    """compute(layer(x), c)."""

    def __init__(self, layer: nn.Module, c: Tensor, compute: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.compute = layer, compute
        self.register_buffer("c", c)

    def forward(self, x: Tensor) -> Any:
        return self.compute(self.layer(x), self.c)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 6), (2, 5, 4), (6,)),
    "linear without bias": (lambda: nn.Linear(4, 6, bias=False), (2, 5, 4), (1, 1, 6)),
    "conv1d": (lambda: nn.Conv1d(3, 6, 3), (2, 3, 8), (6, 1)),
    "conv2d of groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 8, 8), (1, 6, 1, 1)),
    "conv2d of one image": (lambda: nn.Conv2d(4, 6, 3), (4, 8, 8), (6, 1, 1)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2), (2, 4, 5, 5), (1, 6, 1, 1)),
}


def rewrite(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, set[Any], float]:
    """Rewrites, the operations that remain, and the SQNR of the outputs after against before."""
    torch.manual_seed(1)
    x = torch.randn(shape)
    program = capture(model.eval(), (x,))
    result = run_passes(program, [FoldScales()])
    before, after = (torch.cat([*one.run({"x": x}).values()]).numpy() for one in (program, result.program))
    left = {node.target for node in result.program.graph.nodes if node.op == "call_function"}
    return result.reports[0].report.rewrites, left, sqnr_db(before, after)


@pytest.mark.parametrize("name", LAYERS)
def test_a_factor_and_an_offset_of_each_channel_are_folded(name: str) -> None:
    torch.manual_seed(0)
    make, shape, per_channel = LAYERS[name]
    c = torch.rand(per_channel) + 0.5
    rewrites, left, db = rewrite(Scaled(make(), c, lambda y, c: c * (y * c) + c), shape)
    assert rewrites == 3
    assert left.isdisjoint({aten.mul.Tensor, aten.add.Tensor})
    assert db > 120.0


def test_one_number_for_all_channels_is_folded() -> None:
    rewrites, left, db = rewrite(Scaled(nn.Linear(4, 6), torch.tensor(0.3), lambda y, c: c * (0.35 * y + 1)), (2, 5, 4))
    assert rewrites == 3
    assert left == {aten.linear.default}
    assert db > 120.0


KEPT: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor], Any]]] = {
    "another axis": ((5, 1), lambda y, c: y * c),
    "all numbers": ((5, 6), lambda y, c: y * c),
    "a computed factor": ((6,), lambda y, c: y * y.mean((0, 1))),
    "a weighted sum": ((6,), lambda y, c: torch.add(y, c, alpha=2)),
    "a second reader": ((6,), lambda y, c: (y * c, y)),
}


@pytest.mark.parametrize("name", KEPT)
def test_everything_else_stays(name: str) -> None:
    torch.manual_seed(0)
    shape, compute = KEPT[name]
    rewrites, _, db = rewrite(Scaled(nn.Linear(4, 6), torch.rand(shape) + 0.5, compute), (2, 5, 4))
    assert rewrites == 0
    assert db == 200.0, "the numbers of an untouched graph are the same"


def test_a_grouped_transposed_convolution_stays() -> None:
    model = Scaled(nn.ConvTranspose2d(4, 6, 3, groups=2), torch.rand(1, 6, 1, 1), lambda y, c: y * c)
    assert rewrite(model, (1, 4, 5, 5))[0] == 0
