"""What calibration warns of: dead ranges, dead and saturating channels, inputs that the data hardly cover."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgewright.calibration.cautions import input_cautions, value_cautions, weight_cautions
from edgewright.calibration.extremes import Extremes
from edgewright.calibration.ranges import Levels
from edgewright.calibration.statistics import ValueStatistics
from edgewright.errors import CalibrationError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.quantize_static import QuantizeStatic
from edgewright.pipeline.passes.runner import run_passes


def found_in(values: Tensor, axis: int | None = None) -> ValueStatistics:
    found = ValueStatistics([])
    found.channels = None if axis is None else Extremes(axis)
    assert found.update(values)
    return found


def texts(values: Tensor, low: float, high: float, axis: int | None = None) -> list[str]:
    levels = Levels()
    scale, zero_point = levels.encode(torch.tensor(low), torch.tensor(high))
    found = value_cautions("x", found_in(values, axis), float(scale), int(zero_point), levels)
    assert all(caution.node == "x" for caution in found)
    return [caution.text for caution in found]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_a_healthy_value_has_no_warning() -> None:
    values = normal(4, 8, 50)
    assert texts(values, float(values.min()), float(values.max()), axis=1) == []


def test_a_constant_value_is_named_with_its_value() -> None:
    assert texts(torch.full((3, 4), 2.5), 0.0, 2.5) == [
        "is 2.5 in all calibration data: its encoding holds for no other value"
    ]


def test_a_range_that_one_outlier_stretches_is_dead() -> None:
    values = torch.cat([normal(100_000), torch.tensor([1000.0])])
    (text,) = texts(values, float(values.min()), 1000.0)
    assert "of its 256 steps" in text
    assert 'observer = "mse"' in text


def test_channels_that_never_change_are_counted_and_named() -> None:
    values = normal(2, 9, 30)
    values[:, [1, 2, 3, 5, 6, 8]] = 0.0
    assert texts(values, -4.0, 4.0, axis=1) == [
        "6 of 9 channels (1, 2, 3, 5, 6, ...) are constant in all calibration data"
    ]


def test_a_channel_far_beyond_the_range_saturates() -> None:
    values = normal(2, 4, 30).clamp(-2, 2)
    values[:, 3] *= 10
    (text,) = texts(values, -2.0, 2.0, axis=1)
    assert text.startswith("1 of 4 channels (3) is clipped: up to ")
    assert text.endswith("the encoding goes from -1.992 to 2.008")


def test_all_zero_output_channels_of_a_weight_are_named() -> None:
    weight = normal(5, 3)
    weight[2] = 0.0
    extremes = Extremes(0)
    extremes.update(weight)
    assert [caution.text for caution in weight_cautions("w", extremes)] == ["1 of 5 channels (2) is all zero"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-1.0, 2.3, ""),
        (-1.0, 0.0, "30% of it is covered"),
        (0.0, 255.0, "was it preprocessed as declared?"),
        (0.0, 0.0, "0% of it is covered"),
    ],
)
def test_data_are_held_against_the_declared_range(low: float, high: float, expected: str) -> None:
    batches = [{"image": torch.tensor([low]), "other": torch.zeros(1)}, {"image": torch.tensor([high])}]
    found = input_cautions(batches, {"image": (-1.0, 7 / 3)})
    assert [caution.node for caution in found] == (["image"] if expected else [])
    assert all(expected in caution.text for caution in found)


# In a program


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)
        with torch.no_grad():
            self.conv.weight[0], self.conv.bias[0] = 0.0, -1.0  # type: ignore[index]

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(image)))


def test_the_report_of_a_pass_has_the_warnings_and_the_program_is_the_same() -> None:
    torch.manual_seed(0)
    batches = [{"image": normal(1, 1, 8, 8) * 0.1}]
    program = capture(Net(), batches[0])
    plain = run_passes(program, [QuantizeStatic()], Context(batches))
    ran = run_passes(program, [QuantizeStatic()], Context(batches, declared={"image": (-1.0, 1.0)}))
    found = {caution.node: caution.text for caution in ran.reports[0].report.warnings}
    assert found["image"].endswith("of it is covered")
    assert found["conv_weight"] == "1 of 4 channels (0) is all zero"
    assert found["relu"] == "1 of 4 channels (0) is constant in all calibration data"
    assert "image" not in {caution.node for caution in plain.reports[0].report.warnings}
    assert plain.program.digest() == ran.program.digest()


class Dividing(Net):
    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(image)) / image.mean())


@pytest.mark.parametrize("observer", ["minmax", "moving-average", "mse"])
def test_a_value_that_is_not_finite_is_named_with_its_operation(observer: str) -> None:
    program = capture(Dividing(), {"image": normal(1, 1, 8, 8)})
    batches = [{"image": normal(1, 1, 8, 8)}, {"image": torch.zeros(1, 1, 8, 8)}]
    with pytest.raises(CalibrationError, match="the value 'div' has NaN or infinity on calibration data") as caught:
        run_passes(program, [QuantizeStatic(observer=observer)], Context(batches))
    assert "aten.div.Tensor" in str(caught.value)
    assert "what to do: " in str(caught.value)


class Broadcasting(Net):
    """A layer's result for each channel, spread over images: its sizes are not the layer's."""

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        return self.head(torch.relu(self.head(x).mean((1, 2, 3)) + x))


def test_channels_are_told_apart_only_where_the_layer_says_which_axis_they_are() -> None:
    torch.manual_seed(0)
    batches = [{"image": normal(1, 1, 8, 8)}]
    program = capture(Broadcasting(), batches[0])
    report = run_passes(program, [QuantizeStatic()], Context(batches)).reports[0].report
    assert report.rewrites


class Token(nn.Module):
    """A constant class token that shares its encoding with what is joined to it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.token = nn.Conv1d(2, 4, 1), nn.Parameter(torch.full((1, 4, 1), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token, self.conv(x)], 2)


def test_what_shares_an_encoding_with_a_constant_is_observed_on_every_batch() -> None:
    torch.manual_seed(0)
    batches = [{"x": normal(1, 2, 6) * factor} for factor in (0.01, 1.0)]
    program = capture(Token(), batches[0])
    done = run_passes(program, [QuantizeStatic()], Context(batches)).program
    expected, got = program.run(batches[1])["output_0"], done.run(batches[1])["output_0"]
    assert torch.allclose(got, expected, atol=0.05)
