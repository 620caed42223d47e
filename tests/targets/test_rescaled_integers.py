"""LiteRT rounds integers that change their scale as the graph does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgewright as ew
from edgewright.targets import get_target, require_runtime
from edgewright.targets.tflite.rescale import rescale_by_products

try:
    require_runtime(get_target("tflite"))
except ew.EdgewrightError as error:
    pytest.skip(str(error), allow_module_level=True)

INTEGERS = np.arange(-128, 128, dtype=np.int8)
SOURCE, RESULT = (float(np.float32(0.0056508)), -4), (float(np.float32(0.0031821)), -108)


def file_of(slope: float | None) -> bytes:
    """One LEAKY_RELU of all 256 integers, or one QUANTIZE (slope None), from one encoding to another."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, graph, code, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = schema.BuiltinOperator.QUANTIZE if slope is None else schema.BuiltinOperator.LEAKY_RELU
    code.deprecatedBuiltinCode, code.version = code.builtinCode, 2
    if slope is not None:
        operator.builtinOptionsType = schema.BuiltinOptions.LeakyReluOptions
        operator.builtinOptions = schema.LeakyReluOptionsT()
        operator.builtinOptions.alpha = slope
    operator.inputs, operator.outputs = [0], [1]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [operator], [0], [1]
    for name, (scale, zero_point) in (("x", SOURCE), ("y", RESULT)):
        tensor, tensor.quantization = schema.TensorT(), schema.QuantizationParametersT()
        tensor.name, tensor.type, tensor.shape = name.encode(), schema.TensorType.INT8, np.array([256], np.int32)
        tensor.quantization.scale = np.array([scale], np.float32)
        tensor.quantization.zeroPoint, tensor.buffer = np.array([zero_point], np.int64), 0
        graph.tensors.append(tensor)
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [code], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def steps_off(content: bytes, slope: float) -> Any:
    """By how many steps the runtime's integers lie above the exact value, rounded half to even."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], INTEGERS)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    real = (INTEGERS.astype(np.float64) - SOURCE[1]) * SOURCE[0]
    real = np.where(real >= 0, real, real * np.float32(slope))
    return found - np.clip(np.rint(real / RESULT[0]) + RESULT[1], -128, 127)


@pytest.mark.parametrize("slope", [None, 0.1, 0.01, 1.0, 1.7, -0.3])
def test_every_integer_is_rounded_once(slope: float | None) -> None:
    content, factor = file_of(slope), 1.0 if slope is None else slope
    assert np.any(steps_off(content, factor)), "the kernel's own numbers are right by now: the rewrite may go"
    assert not np.any(steps_off(rescale_by_products(content), factor))


def test_nothing_else_is_touched() -> None:
    content = file_of(0.0)  # a ReLU: its factor has no scale
    assert np.array_equal(steps_off(rescale_by_products(content), 0.0), steps_off(content, 0.0))
    rescaled = rescale_by_products(file_of(0.1))
    assert rescale_by_products(rescaled) is rescaled


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
