"""Forms that the ONNX lowering chooses for ONNX Runtime's faster kernels: the same numbers, other operations."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgewright as ew
from edgewright.targets.onnx import lower
from tests.small_models import quantized

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.dense(x))


class Means(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.conv(image))
        return (x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))).mean((2, 3))


def executed(path: Path, folder: Path) -> set[str]:
    """The operations of the graph that ONNX Runtime makes of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}


def test_a_norm_behind_a_residual_add_is_not_fused_into_the_slow_kernel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = ew.capture(Norms(), (torch.randn(1, 5, 8),))
    artifact = ew.lower(program, "onnx", tmp_path)
    operations = executed(artifact.main, tmp_path)
    assert "LayerNormalization" in operations
    assert "SkipLayerNormalization" not in operations
    assert ew.validate(artifact, program, [{"x": torch.randn(1, 5, 8)}]).passed


def test_means_over_quantized_images_are_taken_in_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batches = [{"image": torch.randn(1, 3, 9, 9)} for _ in range(4)]
    program = ew.capture(Means(), (batches[0]["image"],))
    compressed = ew.compress(program, [{"pass": "quantize", "scheme": "w8a8"}], batches=batches).program
    artifact = ew.lower(compressed, "onnx", tmp_path)
    stated = [node.op_type for node in onnx.load(artifact.main).graph.node]
    assert stated.count("GlobalAveragePool") == 2 and "ReduceMean" not in stated
    assert "QLinearGlobalAveragePool" in executed(artifact.main, tmp_path)
    assert ew.validate(artifact, compressed, batches, original=program).passed


def test_means_over_other_axes_stay_as_they_are(tmp_path: Path) -> None:
    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2)) + x.mean((1, 3))

    program = ew.capture(Rows(), (torch.randn(1, 3, 4, 4),))
    artifact = ew.lower(program, "onnx", tmp_path)
    assert "GlobalAveragePool" not in {node.op_type for node in onnx.load(artifact.main).graph.node}
    assert ew.validate(artifact, program, [{"x": torch.randn(1, 3, 4, 4)}]).passed


@pytest.mark.parametrize("name", ["cnn", "encoder"])
@pytest.mark.parametrize("shortcut", ["matching_by_operation", "promoting_where_needed"])
def test_shortcuts_through_the_exporter_write_the_same_file(
    shortcut: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ew.lower(quantized(name), "onnx", tmp_path / "short").main.read_bytes()
    monkeypatch.setattr(lower, shortcut, contextlib.nullcontext)
    assert ew.lower(quantized(name), "onnx", tmp_path / "long").main.read_bytes() == found


def test_integers_are_still_promoted(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor, count: Tensor) -> Tensor:
            return (x * count + count / 3) > count

    inputs = {"x": torch.rand(2, 4), "count": torch.tensor([[1, 2, 3, 0]], dtype=torch.int64)}
    program = ew.capture(Mixed(), inputs)
    with ew.open(ew.lower(program, "onnx", tmp_path / "onnx")) as session:
        (found,) = session.run({name: value.numpy() for name, value in inputs.items()}).values()
    assert (found == next(iter(program.run(inputs).values())).numpy()).all()
