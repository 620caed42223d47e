"""A graph as an inspection: what is predicted of it is what is predicted of its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgewright as ew
from edgewright.device_profiles import load_profile
from edgewright.device_profiles.graph import inspect_program
from edgewright.device_profiles.predict import operations_ms, predict_latency_ms
from edgewright.device_profiles.schema import DeviceProfile
from edgewright.pipeline.program import Program
from edgewright.targets import get_target

DEVICES = {"openvino": "intel-n100", "coreml": "iphone-15-pro"}


class Net(nn.Module):
    """Convolutions with a residual addition, a pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6())
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Hardswish(), nn.Conv2d(16, 16, 1))
        self.pool, self.average = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.average(self.pool(torch.relu(x + self.block(x)))).flatten(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def programs() -> dict[str, Program]:
    torch.manual_seed(0)
    batches = [(torch.randn(1, 3, 32, 32),) for _ in range(2)]
    program = ew.capture(Net().eval(), batches[0])
    recipes = {"float": [], "int8": [{"pass": "quantize", "scheme": "w8a8"}]}
    recipes["mixed"] = [{"pass": "quantize", "scheme": "w8a8", "modules": "*|!block.*"}]
    return {name: ew.compress(program, recipe, batches=batches).program for name, recipe in recipes.items()}


@pytest.fixture(scope="module")
def pixel() -> DeviceProfile:
    return load_profile("pixel-8")


@pytest.mark.parametrize(
    ("target", "name", "tolerance"),
    [
        ("onnx", "int8", 1e-3),
        ("onnx", "mixed", 1e-3),
        ("tflite", "mixed", 0.05),
        ("openvino", "float", 0.05),
        ("coreml", "int8", 0.1),
    ],
)
def test_a_graph_is_predicted_to_take_what_its_file_is(
    target: str, name: str, tolerance: float, programs: dict[str, Program], tmp_path: Path
) -> None:
    profile = load_profile(DEVICES.get(target, "pixel-8"))
    file = get_target(target).inspect(ew.lower(programs[name], target, tmp_path))
    expected = predict_latency_ms(file, profile, target)
    found = predict_latency_ms(inspect_program(programs[name], target), profile, target)
    assert found.expected == pytest.approx(expected.expected, rel=tolerance)
    assert found.high == pytest.approx(expected.high, rel=2 * tolerance)


def test_what_each_node_takes_adds_up_to_the_whole(programs: dict[str, Program], pixel: DeviceProfile) -> None:
    for program in programs.values():
        inspection = inspect_program(program, "tflite")
        parts = operations_ms(inspection, pixel, "tflite")
        assert sum(parts.values()) == pytest.approx(predict_latency_ms(inspection, pixel, "tflite").expected)
        names = {node.name for node in program.graph.nodes} | {"x_layout"}
        assert set(parts) <= names and "conv2d" in parts


def test_conversions_between_integers_and_floats_are_operations_in_tflite_alone(programs: dict[str, Program]) -> None:
    def conversions(name: str) -> list[str]:
        found = inspect_program(programs[name], "tflite").operations
        return sorted(operation.op for operation in found if operation.op in ("quantize", "dequantize"))

    assert conversions("float") == []
    assert conversions("int8") == ["dequantize", "quantize"]  # where the model's own inputs and outputs are
    assert conversions("mixed").count("dequantize") > 1
    integers = {
        operation.name for operation in inspect_program(programs["int8"], "tflite").operations if operation.macs
    }
    assert integers == {
        node.name for node in programs["int8"].graph.nodes if "conv2d" in node.name or node.name == "linear"
    }
