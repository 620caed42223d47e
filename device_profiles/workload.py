"""What a runtime really executes of the operations that a file states.

A file states more than runs: constants, views, activations and biases that are fused into their producers,
and, around integer operations, quantize and dequantize steps that exist only on paper. The rules here are
those that ONNX Runtime, OpenVINO, Core ML and XNNPACK share; they look at the file's order, since an
inspection holds no edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgewright.targets.base import LOW_PRECISION, Operation

# Constants, views, and what every runtime folds while it loads.
_FREE = frozenset({
    "const", "constant", "parameter", "result", "input", "output", "identity", "alias", "shape", "shapeof",
    "reshape", "squeeze", "unsqueeze", "expanddims", "flatten", "dropout", "noop", "convertlike",
})  # fmt: skip
# Fused into the operation before it. A TFLite file states its fusions itself.
_FUSED = frozenset({
    "relu", "relu6", "clip", "clamp", "leakyrelu", "prelu", "hardswish", "hardsigmoid", "batchnormalization",
    "batchnorm", "convert", "cast", "biasadd",
})  # fmt: skip
_QUANTIZERS = frozenset({"quantizelinear", "quantize", "fakequantize"})
_ON_PAPER = _QUANTIZERS | {"dequantizelinear", "dequantize"}
_ELEMENTWISE = frozenset({"add", "mul", "multiply", "sub", "subtract", "div"})


def executed(operations: Sequence[Operation], target: str) -> list[Operation]:
    """The operations that take time, with the dtype and the bytes that they run with.

    In a file with quantize and dequantize steps (ONNX Q/DQ, OpenVINO, Core ML) the tensors around an integer
    operation are stated in float: its bytes are counted in int8. A float operation whose result is quantized
    next (an addition, a pooling) runs in int8 as well.
    """
    names = [_plain(operation) for operation in operations]
    if target == "tflite":
        kept = zip(operations, names, strict=True)
        return [operation for operation, name in kept if not _is_free_in_tflite(operation, name)]
    width = 2 if any(operation.compute == "float16" for operation in operations) else 4
    simulated = not _ON_PAPER.isdisjoint(names)
    running: list[Operation] = []
    after_product = False
    for index, (operation, name) in enumerate(zip(operations, names, strict=True)):
        if _is_free(operation, name):
            continue
        if name == "add" and after_product:
            continue  # a bias, or a residual that the product's kernel adds while it writes
        after_product = operation.macs > 0
        if simulated and _runs_in_integers(operation, names[index:]):
            operation = replace(operation, compute="int8", activation_bytes=operation.activation_bytes // width)
        running.append(operation)
    return running


def _plain(operation: Operation) -> str:
    """CONV_2D, Conv2d and conv_2d are one name."""
    return "".join(letter for letter in operation.op.lower() if letter.isalnum())


def _is_free(operation: Operation, name: str) -> bool:
    if operation.macs:
        return False
    # An elementwise constant is a bias or a scale: part of the product beside it.
    scale = name in _ELEMENTWISE and operation.weight_bytes > 0
    return name in _FREE | _FUSED | _ON_PAPER or name.startswith("constexpr") or scale


def _is_free_in_tflite(operation: Operation, name: str) -> bool:
    """XNNPACK takes padding into the convolution, and unpacks constants once."""
    unpacked = name == "dequantize" and operation.weight_bytes > 0
    return not operation.macs and (name in _FREE or name == "pad" or unpacked)


def _runs_in_integers(operation: Operation, names: Sequence[str]) -> bool:
    if names[0].startswith("qlinear") or names[0].endswith("integer") or names[0] == "qgemm":
        return False  # its bytes are integers already
    if operation.compute in LOW_PRECISION:
        return True
    following = next((name for name in names[1:] if name not in _FUSED), "")
    return not operation.macs and following in _QUANTIZERS
