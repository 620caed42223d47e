"""Bias correction: each channel keeps the mean that it had before its layer was rounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgewright as ew
from edgewright.errors import CalibrationError
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.program import Program
from tests.small_models import SMALL, Batch, captured, outputs


class Net(nn.Module):
    """A convolution without bias, a transposed one, and linear layers over rows; inputs far from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, bias=False)
        self.wide = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Linear(8, 6)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(image)
        y = self.wide(F.relu(x))
        return self.head(y.permute(0, 2, 3, 1)), y


@pytest.fixture(scope="module")
def net() -> tuple[Program, list[Batch]]:
    torch.manual_seed(0)
    images = [{"image": torch.rand(1, 3, 10, 10) + 1} for _ in range(16)]
    return ew.capture(Net().eval(), images[0]), images


def step(scheme: str, **settings: Any) -> list[dict[str, Any]]:
    return [{"pass": "quantize", "scheme": scheme, **settings}]


@pytest.mark.parametrize("recipe", [step("w4", search=False), step("w4", rounding="gptq"), step("w8a8")])
def test_channels_keep_their_means_over_the_calibration_data(
    net: tuple[Program, list[Batch]], recipe: list[dict[str, Any]]
) -> None:
    program, images = net
    exact = outputs(program, images, 1).mean((0, 2, 3))
    plain = outputs(ew.compress(program, recipe, batches=images).program, images, 1).mean((0, 2, 3))
    recipe = [{**recipe[0], "correct_biases": True}]
    corrected = outputs(ew.compress(program, recipe, batches=images).program, images, 1).mean((0, 2, 3))
    assert (corrected - exact).abs().max() < 0.35 * (plain - exact).abs().max()


def test_rows_that_no_output_depends_on_do_not_count() -> None:
    """Half of the rows are masked out, and far away: their mean error must not move the bias."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return (self.layer(x) * mask).sum(1)

    torch.manual_seed(0)
    mask = torch.cat([torch.ones(1, 4, 1), torch.zeros(1, 4, 1)], 1)
    near = [torch.randn(1, 8, 16) + 1 for _ in range(8)]
    far = [rows + 50 * (1 - mask) for rows in near]
    program = ew.capture(Masked().eval(), (near[0], mask))
    recipe = step("w4", minimum_elements=1, correct_biases=True)
    found = [
        ew.compress(program, recipe, batches=[(rows, mask) for rows in data]).program.run({"x": near[0], "mask": mask})[
            "output_0"
        ]
        for data in (near, far)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("scheme", "gain"), [("w4", 1.0), ("w8a8", 0.2)])
def test_a_convolutional_network_gains_on_data_that_was_not_calibrated_with(scheme: str, gain: float) -> None:
    model = SMALL["cnn"]
    held_out = model.batches(16, seed=9)
    exact = outputs(captured("cnn"), held_out).numpy()
    reached = [
        sqnr_db(
            exact, outputs(ew.compress(captured("cnn"), recipe, batches=model.batches(32)).program, held_out).numpy()
        )
        for recipe in (step(scheme), step(scheme, correct_biases=True))
    ]
    assert reached[1] > reached[0] + gain


def test_without_data_it_is_refused(net: tuple[Program, list[Batch]]) -> None:
    with pytest.raises(CalibrationError, match="bias correction needs calibration data"):
        ew.compress(net[0], step("w8", correct_biases=True))
