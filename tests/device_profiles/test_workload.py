"""What of a file's statements is taken to run."""

from __future__ import annotations

import pytest

from edgewright.device_profiles.workload import executed
from edgewright.targets.base import Operation

CONV = Operation("conv", "Conv", "float32", 1000, 40, 400)


def ops(operations: list[Operation]) -> list[str]:
    return [operation.op for operation in operations]


@pytest.mark.parametrize("op", ["Constant", "const", "Reshape", "Squeeze", "ExpandDims", "Identity", "Clip", "Relu6"])
def test_views_constants_and_activations_do_not_run(op: str) -> None:
    assert ops(executed([CONV, Operation("n", op, "float32", 0, 0, 400)], "onnx")) == ["Conv"]


def test_a_bias_or_residual_right_after_a_product_is_part_of_it() -> None:
    add = Operation("a", "Add", "float32", 0, 0, 1200)
    assert ops(executed([CONV, add, CONV], "openvino")) == ["Conv", "Conv"]


def test_an_addition_elsewhere_runs() -> None:
    add = Operation("a", "Add", "float32", 0, 0, 1200)
    softmax = Operation("s", "Softmax", "float32", 0, 0, 800)
    assert ops(executed([CONV, softmax, add], "onnx")) == ["Conv", "Softmax", "Add"]


def test_a_multiplication_with_a_constant_is_a_scale_of_its_neighbour() -> None:
    scale = Operation("m", "Multiply", "float32", 0, 4, 800)
    assert ops(executed([CONV, scale], "openvino")) == ["Conv"]


def test_an_activation_stated_in_tflite_runs_there() -> None:
    relu = Operation("r", "RELU", "float32", 0, 0, 800)
    assert ops(executed([CONV, relu], "tflite")) == ["Conv", "RELU"]


def test_padding_and_unpacked_constants_of_tflite_do_not_run() -> None:
    pad = Operation("p", "PAD", "float32", 0, 32, 800)
    unpack = Operation("d", "DEQUANTIZE", "float32", 0, 100, 400)
    assert ops(executed([pad, unpack, CONV], "tflite")) == ["Conv"]


def test_tensors_around_an_integer_product_are_counted_in_int8() -> None:
    steps = [
        Operation("q", "QuantizeLinear", "int8", 0, 4, 500),
        Operation("d", "DequantizeLinear", "int8", 0, 4, 500),
        Operation("c", "Conv", "int8", 1000, 0, 400),
        Operation("q2", "QuantizeLinear", "int8", 0, 4, 500),
    ]
    (conv,) = executed(steps, "onnx")
    assert (conv.compute, conv.activation_bytes) == ("int8", 100)


def test_an_addition_whose_result_is_quantized_runs_in_int8() -> None:
    steps = [
        Operation("s", "Softmax", "float32", 0, 0, 800),
        Operation("a", "Add", "float32", 0, 0, 1200),
        Operation("r", "Relu", "float32", 0, 0, 800),
        Operation("q", "FakeQuantize", "float32", 0, 16, 800),
    ]
    softmax, add = executed(steps, "openvino")
    assert (softmax.compute, softmax.activation_bytes) == ("float32", 800)
    assert (add.compute, add.activation_bytes) == ("int8", 300)


def test_an_operation_on_real_integers_keeps_its_bytes() -> None:
    steps = [
        Operation("q", "QuantizeLinear", "int8", 0, 4, 500),
        Operation("c", "QLinearConv", "int8", 1000, 40, 100),
    ]
    assert executed(steps, "onnx") == [steps[1]]


def test_a_float_file_is_billed_as_it_stands() -> None:
    softmax = Operation("s", "Softmax", "float32", 0, 0, 800)
    assert executed([CONV, softmax], "coreml") == [CONV, softmax]
