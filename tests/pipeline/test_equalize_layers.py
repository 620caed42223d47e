"""Cross-layer equalization: the same function, with equal ranges on both sides of each channel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgewright as ew
from edgewright.errors import RecipeError
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.equalize_layers import EqualizeLayers
from edgewright.pipeline.passes.graph import aten
from edgewright.pipeline.passes.runner import Ran, run_passes
from edgewright.pipeline.program import Program
from tests.small_models import SMALL, Batch, folded, outputs

CONV = aten.conv2d.default


class Uneven(nn.Module):
    """A convolution, a depthwise and a pointwise one, pooling and a linear layer, with channels of very unlike size."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.pointwise = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, 5)
        for layer, spread in ((self.first, 3.0), (self.depthwise, 2.0), (self.pointwise, 2.0)):
            layer.weight.data *= torch.exp(spread * torch.randn(len(layer.weight), 1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(image)), 2)
        x = F.relu(self.pointwise(F.leaky_relu(self.depthwise(x), 0.1)))
        return self.head(x.mean((2, 3)))


def uneven() -> tuple[Program, list[Batch]]:
    torch.manual_seed(0)
    model = Uneven().eval()
    images = [{"image": torch.rand(1, 3, 12, 12)} for _ in range(32)]
    return ew.capture(model, images[0]), images


def equalize(program: Program, modules: str = "*") -> tuple[Program, Ran]:
    compressed = run_passes(program, [EqualizeLayers(modules)])
    return compressed.program, compressed.reports[0]


def weights(program: Program) -> list[Tensor]:
    layers = [node for node in program.graph.nodes if node.target in (CONV, aten.linear.default)]
    return [program.tensor(layer.args[1]).detach() for layer in layers]


def test_the_function_stays_and_both_ranges_of_each_channel_become_equal() -> None:
    program, images = uneven()
    found, ran = equalize(program)
    assert ran.report.rewrites == 3
    torch.testing.assert_close(outputs(found, images), outputs(program, images), rtol=1e-4, atol=1e-5)
    first, depthwise, pointwise, head = (weight.abs() for weight in weights(found))
    for made, read in (
        (first.amax((1, 2, 3)), depthwise.amax((1, 2, 3))),
        (depthwise.amax((1, 2, 3)), pointwise.amax((0, 2, 3))),
        (pointwise.amax((1, 2, 3)), head.amax(0)),
    ):
        torch.testing.assert_close(made, read, rtol=0.01, atol=0.0)


def test_int8_of_unlike_channels_gains_much() -> None:
    program, images = uneven()
    exact = outputs(program, images).numpy()
    int8 = {"pass": "quantize", "scheme": "w8a8"}
    plain = ew.compress(program, [int8], batches=images).program
    equalized = ew.compress(program, [{"pass": "equalize-layers"}, int8], batches=images).program
    assert sqnr_db(exact, outputs(equalized, images).numpy()) > sqnr_db(exact, outputs(plain, images).numpy()) + 3


def test_channels_that_nothing_makes_or_reads_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    model[0].weight.data[2] = 0.0
    model[2].weight.data[:, 4] = 0.0
    program = ew.capture(model, (torch.randn(2, 4),))
    first, last = weights(equalize(program)[0])
    assert torch.equal(first[2], torch.zeros(4)) and torch.equal(first[4], model[0].weight.data[4])
    assert torch.equal(last[:, 2], model[2].weight.data[:, 2])
    assert bool(torch.isfinite(first).all()) and bool(torch.isfinite(last).all())


class Branches(nn.Module):
    def __init__(self, activation: nn.Module, *, twice: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.activation, self.twice = nn.Linear(4, 4), nn.Linear(4, 4), activation, twice

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.first(x))
        return self.second(hidden) + hidden if self.twice else self.second(hidden)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Branches(nn.ReLU6()), "is bounded"),
        (Branches(nn.GELU()), "is not homogeneous"),
        (Branches(nn.ReLU(), twice=True), "has other readers"),
    ],
)
def test_what_would_change_the_function_is_left_alone_with_the_reason(model: nn.Module, reason: str) -> None:
    program = ew.capture(model.eval(), (torch.randn(2, 4),))
    _, ran = equalize(program)
    assert ran.report.rewrites == 0
    assert any(reason in skip.reason for skip in ran.report.skips)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_small_model_stays_the_same_function(name: str) -> None:
    program, (batch,) = folded(name), SMALL[name].batches(1)
    compressed = run_passes(program, [EqualizeLayers()], Context()).program
    torch.testing.assert_close(compressed.run(batch), program.run(batch), rtol=1e-3, atol=1e-4)


def test_only_pairs_of_the_pattern_are_touched() -> None:
    program, _ = uneven()
    assert equalize(program, "first|depthwise")[1].report.rewrites == 1
    with pytest.raises(RecipeError, match="did you mean 'depthwise'"):
        equalize(program, "depthwize")
