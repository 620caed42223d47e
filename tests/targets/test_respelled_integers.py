"""LiteRT rounds integers that change their scale as the graph does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import edgewright as ew
from edgewright.pipeline.metrics import sqnr_db
from edgewright.targets import get_target, require_runtime
from edgewright.targets.tflite.editing import Editing
from edgewright.targets.tflite.respell import respell

try:
    require_runtime(get_target("tflite"))
except ew.EdgewrightError as error:
    pytest.skip(str(error), allow_module_level=True)

INTEGERS = np.arange(-128, 128, dtype=np.int8)
SOURCE, RESULT = (float(np.float32(0.0056508)), -4), (float(np.float32(0.0031821)), -108)


def file_of(
    name: str, result_shape: tuple[int, ...] = (256,), source_shape: tuple[int, ...] = (256,), **options: Any
) -> bytes:
    """One operator of int8, from one encoding to another; an average keeps its encoding."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, graph, code, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 2
    if options:
        kind = "Pool2DOptions" if name == "AVERAGE_POOL_2D" else "LeakyReluOptions"
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        operator.builtinOptions = getattr(schema, f"{kind}T")()
        vars(operator.builtinOptions).update(options)
    operator.inputs, operator.outputs = [0], [1]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [operator], [0], [1]
    encodings = (SOURCE, SOURCE if name == "AVERAGE_POOL_2D" else RESULT)
    for label, shape, (scale, zero_point) in zip("xy", (source_shape, result_shape), encodings, strict=True):
        tensor, tensor.quantization = schema.TensorT(), schema.QuantizationParametersT()
        tensor.name, tensor.type, tensor.shape = label.encode(), schema.TensorType.INT8, np.array(shape, np.int32)
        tensor.quantization.scale = np.array([scale], np.float32)
        tensor.quantization.zeroPoint, tensor.buffer = np.array([zero_point], np.int64), 0
        graph.tensors.append(tensor)
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [code], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def result_of(content: bytes, integers: Any) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], integers)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def respelled(content: bytes) -> bytes:
    file = Editing.of(content)
    respell(file)
    return file.packed()


def rescaling_of(slope: float | None) -> bytes:
    return file_of("QUANTIZE") if slope is None else file_of("LEAKY_RELU", alpha=slope)


def steps_off(content: bytes, slope: float) -> Any:
    """By how many steps the runtime's integers lie above the exact value, rounded half to even."""
    real = (INTEGERS.astype(np.float64) - SOURCE[1]) * SOURCE[0]
    real = np.where(real >= 0, real, real * np.float32(slope))
    return result_of(content, INTEGERS) - np.clip(np.rint(real / RESULT[0]) + RESULT[1], -128, 127)


@pytest.mark.parametrize("slope", [None, 0.1, 0.01, 1.0, 1.7, -0.3])
def test_every_integer_is_rounded_once(slope: float | None) -> None:
    content, factor = rescaling_of(slope), 1.0 if slope is None else slope
    assert np.any(steps_off(content, factor)), "the kernel's own numbers are right by now: the rewrite may go"
    assert not np.any(steps_off(respelled(content), factor))


def test_nothing_else_is_touched() -> None:
    content = rescaling_of(0.0)  # a ReLU: its factor has no scale
    assert np.array_equal(steps_off(respelled(content), 0.0), steps_off(content, 0.0))
    rescaled = respelled(rescaling_of(0.1))
    assert respelled(rescaled) == rescaled


@pytest.mark.parametrize("slope", [0.1, 0.01])
def test_a_leaky_network_in_integers_computes_its_graph(slope: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 24, 24)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.LeakyReLU(slope), nn.Conv2d(16, 16, 3), nn.LeakyReLU(slope))
    program = ew.compress(ew.capture(model, (image,)), [{"pass": "quantize", "scheme": "w8a8"}], batches=[(image,)])
    artifact = ew.lower(program.program, "tflite", tmp_path)
    kinds = {operation.op for operation in get_target("tflite").inspect(artifact).operations}
    assert {"MUL", "MAXIMUM"} <= kinds and "LEAKY_RELU" not in kinds
    (name,) = (spec.name for spec in program.program.inputs)
    with ew.open(artifact) as session:
        found = session.run({name: image.numpy()})["output_0"]
    assert np.array_equal(found, program.program.run({name: image})["output_0"].numpy())


def average_of(images: Any, window: int, stride: int, padding: int) -> tuple[bytes, Any]:
    """One AVERAGE_POOL_2D, and what it has to give: exact averages, rounded half to even."""
    centred = torch.from_numpy(images.astype(np.float64) - SOURCE[1]).permute(0, 3, 1, 2)
    exact = F.avg_pool2d(centred, window, stride, padding, count_include_pad=False).permute(0, 2, 3, 1)
    size = {"filterHeight": window, "filterWidth": window, "strideH": stride, "strideW": stride}
    content = file_of("AVERAGE_POOL_2D", tuple(exact.shape), images.shape, padding=int(padding == 0), **size)
    return content, np.rint(exact.numpy()) + SOURCE[1]


BELOW_ZERO = np.random.default_rng(0).integers(-128, 0, (1, 24, 24, 8)).astype(np.int8)  # as behind a ReLU, mostly


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (2, 1), (4, 2)])
def test_an_average_of_an_even_count_rounds_halves_to_even(window: int, stride: int) -> None:
    content, wanted = average_of(BELOW_ZERO, window, stride, 0)
    assert np.mean(result_of(content, BELOW_ZERO) - wanted) < -0.02, "the kernel's own are right by now"
    assert np.array_equal(result_of(respelled(content), BELOW_ZERO), wanted)


def test_a_padded_average_is_one_of_floats() -> None:
    content, wanted = average_of(BELOW_ZERO, 3, 1, 1)
    off = [np.mean(result_of(file, BELOW_ZERO) - wanted) for file in (content, respelled(content))]
    assert off[0] < -0.01 and abs(off[1]) < 0.7 * abs(off[0]), "those of floats fall to either side"


def test_an_average_of_an_odd_count_stays() -> None:
    content, wanted = average_of(BELOW_ZERO, 3, 1, 0)
    assert np.array_equal(result_of(content, BELOW_ZERO), wanted)
    assert np.array_equal(result_of(respelled(content), BELOW_ZERO), wanted)
    with_two, _ = average_of(BELOW_ZERO, 2, 2, 0)
    assert respelled(respelled(with_two)) == respelled(with_two)


@pytest.mark.parametrize(
    ("pool", "kind"), [(nn.AvgPool2d(2), "DEPTHWISE_CONV_2D"), (nn.AvgPool2d(3), "AVERAGE_POOL_2D")]
)
def test_a_network_with_averages_computes_its_graph(pool: nn.Module, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 24, 24)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), pool, nn.Conv2d(16, 16, 3))
    program = ew.compress(ew.capture(model, (image,)), [{"pass": "quantize", "scheme": "w8a8"}], batches=[(image,)])
    artifact = ew.lower(program.program, "tflite", tmp_path)
    found = {operation.op for operation in get_target("tflite").inspect(artifact).operations}
    assert found & {"DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D"} == {kind}
    (name,) = (spec.name for spec in program.program.inputs)
    with ew.open(artifact) as session:
        result = session.run({name: image.numpy()})["output_0"]
    assert sqnr_db(program.program.run({name: image})["output_0"].numpy(), result) > 30
