"""What the inspectors read from real files, against counts worked out by hand."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.errors import TargetError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.quantize_static import QuantizeStatic
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.program import Program
from edgewright.targets import get_target, require_runtime
from edgewright.targets.base import Artifact, Inspection, Target
from tests.small_models import folded, quantized

TARGETS = ("coreml", "onnx", "openvino", "tflite")


class Product(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.matmul(left, right)


class TransposedProduct(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.matmul(left.transpose(-1, -2), right)


class Two(nn.Module):
    """A layer that runs in integers and one that stays in float."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 48)
        self.second = nn.Linear(48, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.softmax(self.first(x), dim=-1))


# name: (model, example inputs, multiply-accumulates)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], int]] = {
    "conv": (lambda: nn.Conv2d(3, 8, 3, padding=1), ((1, 3, 10, 12),), 8 * 10 * 12 * 3 * 9),
    "strided conv": (lambda: nn.Conv2d(3, 8, 3, stride=2), ((1, 3, 11, 13),), 8 * 5 * 6 * 3 * 9),
    "grouped conv": (lambda: nn.Conv2d(8, 16, 3, groups=4, padding=1), ((1, 8, 6, 6),), 16 * 36 * 2 * 9),
    "depthwise conv": (lambda: nn.Conv2d(8, 8, 3, groups=8, padding=1), ((1, 8, 6, 6),), 8 * 36 * 9),
    "transposed conv": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), ((1, 4, 5, 7),), 4 * 35 * 6 * 9),
    "linear": (lambda: nn.Linear(24, 10), ((1, 24),), 240),
    "linear over a sequence": (lambda: nn.Linear(24, 10), ((2, 7, 24),), 14 * 240),
    "matmul": (Product, ((2, 5, 6), (2, 6, 7)), 2 * 5 * 6 * 7),
    "transposed matmul": (TransposedProduct, ((2, 6, 5), (2, 6, 7)), 2 * 5 * 6 * 7),
}


def usable(name: str) -> Target:
    target = get_target(name)
    try:
        require_runtime(target)
    except TargetError as error:
        pytest.skip(f"{name}: {error}")
    return target


def inspect(target: Target, program: Program, folder: Path) -> Inspection:
    return target.inspect(target.lower(run_passes(program, target.legalize()).program, folder))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", TARGETS)
def test_multiply_accumulates_of_a_layer_are_those_worked_out_by_hand(name: str, layer: str, tmp_path: Path) -> None:
    target = usable(name)
    make, shapes, macs = LAYERS[layer]
    torch.manual_seed(0)
    program = capture(make(), tuple(torch.randn(shape) for shape in shapes))
    inspection = inspect(target, program, tmp_path)
    assert inspection.macs == macs
    assert inspection.low_precision_share == 0.0
    if inspection.executed is not None:
        assert sum(operation.macs for operation in inspection.executed) == macs


@pytest.mark.parametrize("name", TARGETS)
def test_the_share_weighs_layers_by_their_multiply_accumulates(name: str, tmp_path: Path) -> None:
    target = usable(name)
    torch.manual_seed(0)
    batches = [{"x": torch.randn(1, 24)} for _ in range(4)]
    program = capture(Two(), batches[0])
    program = run_passes(program, [QuantizeStatic(modules="first")], Context(batches=batches)).program
    inspection = inspect(target, program, tmp_path)
    assert inspection.macs == 24 * 48 + 48 * 8
    assert inspection.low_precision_share == pytest.approx(24 * 48 / (24 * 48 + 48 * 8))


@pytest.mark.parametrize("name", TARGETS)
def test_stored_bytes_are_those_of_the_programs_weights(name: str, tmp_path: Path) -> None:
    target = usable(name)
    program = folded("mlp")
    inspection = inspect(target, program, tmp_path)
    assert inspection.bytes_by_dtype["float32"] == program.weight_bytes()["float32"]
    assert sum(operation.weight_bytes for operation in inspection.operations) >= program.weight_bytes()["float32"]


@pytest.mark.parametrize("name", TARGETS)
def test_the_peak_of_a_float_perceptron_is_two_neighbouring_layers(name: str, tmp_path: Path) -> None:
    """64 -> 128 -> ReLU -> 64 -> ReLU -> 8: the ReLU reads 128 numbers and writes 128, unless it is fused."""
    peak = inspect(usable(name), folded("mlp"), tmp_path).peak_activation_bytes
    assert peak in (4 * (64 + 128), 4 * (128 + 128))


def test_activations_of_an_int8_tflite_file_take_less_memory(tmp_path: Path) -> None:
    """Its operations are integer; the other formats state Q/DQ pairs around float values."""
    target = usable("tflite")
    sizes = []
    for place, program in enumerate((folded("cnn"), quantized("cnn"))):
        (tmp_path / str(place)).mkdir()
        sizes.append(inspect(target, program, tmp_path / str(place)).peak_activation_bytes)
    assert 0 < sizes[1] <= 0.35 * sizes[0]


def convert_without_config(program: Program, path: Path) -> None:
    """What litert_torch.convert makes of a quantized graph when nobody tells it that it is one."""
    import litert_torch

    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs: Any = {spec.name: tensor for spec, tensor in zip(program.inputs, program.example, strict=True)}
            litert_torch.convert(program.module.eval(), sample_kwargs=inputs).export(str(path))
    finally:
        logging.disable(level)


def test_an_int8_tflite_file_that_computes_in_float_is_found_out(tmp_path: Path) -> None:
    """Its outputs are right and its name says int8; only its operations tell."""
    target = usable("tflite")
    legal = run_passes(quantized("mlp"), target.legalize()).program
    convert_without_config(legal, tmp_path / "model.tflite")
    path = tmp_path / "model.tflite"
    inspection = target.inspect(Artifact("tflite", path, (path,)))
    assert inspection.macs == 16_896
    assert inspection.low_precision_share == 0.0
    honest = target.inspect(target.lower(legal, tmp_path))
    assert honest.low_precision_share == 1.0


@pytest.mark.parametrize(("op", "share"), [("Conv", 0.0), ("MatMul", 1.0)])
def test_an_onnx_file_with_quantized_weights_alone_computes_as_its_runtime_does(
    op: str, share: float, tmp_path: Path
) -> None:
    """A convolution in float32. Of a product ONNX Runtime makes MatMulNBits, which rounds the activations, too."""
    target = usable("onnx")
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    data, stored, result = ([2, 6], [6, 4], [2, 4]) if op == "MatMul" else ([1, 6, 2], [4, 6, 1], [1, 4, 2])
    weight = np.arange(24, dtype=np.int8).reshape(stored)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wf"]),
        helper.make_node(op, ["x", "wf"], ["y"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, data)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32(0.5), "s")],
    )
    path = tmp_path / "weights.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), str(path))
    inspection = target.inspect(Artifact("onnx", path, (path,)))
    assert inspection.bytes_by_dtype == {"float32": 4, "int8": 24}
    assert inspection.macs == 2 * 6 * 4
    assert inspection.low_precision_share == share
    given = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(data) ** 3
    with target.open(Artifact("onnx", path, (path,))) as session:
        got = session.run({"x": given})["y"]
    exact = given @ (weight * 0.5) if op == "MatMul" else np.einsum("bik,oi->bok", given, weight[..., 0] * 0.5)
    off = float(np.abs(got - exact).max())
    assert (off > 1e-3) == bool(share), "the share tells what the arithmetic is"


def test_an_onnx_file_states_integer_products_with_turned_weights_as_its_runtime_runs_them(tmp_path: Path) -> None:
    batch = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(0))
    program = capture(nn.Linear(24, 10), (batch,))
    context = Context(batches=[{program.inputs[0].name: batch}])
    found = inspect(usable("onnx"), run_passes(program, [QuantizeStatic()], context).program, tmp_path)
    assert "Transpose" in {operation.op for operation in found.operations}
    assert found.executed is not None
    for operations in (found.operations, found.executed):
        assert [operation.compute for operation in operations if operation.macs] == ["int8"]
