"""What a TFLite file holds: the dtypes of every operation's tensors are what its kernels compute in."""

from __future__ import annotations

from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from edgewright.targets.accounting import (
    Step,
    account,
    convolution_macs,
    matmul_macs,
    transposed_convolution_macs,
)
from edgewright.targets.base import Inspection

BITS = {
    "FLOAT32": 32,
    "FLOAT16": 16,
    "INT64": 64,
    "INT32": 32,
    "INT16": 16,
    "INT8": 8,
    "UINT8": 8,
    "INT4": 4,
    "INT2": 2,
    "BOOL": 8,
    "FLOAT64": 64,
    "UINT32": 32,
    "UINT64": 64,
    "UINT16": 16,
}
CONVOLUTIONS = {"CONV_2D", "CONV_3D"}


def inspect_tflite(path: Path) -> Inspection:
    """Read a file of our own or of others."""
    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    kinds, dtypes = _names(schema.BuiltinOperator), _names(schema.TensorType)
    constant = {
        index
        for index, tensor in enumerate(graph.tensors)
        if model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data) > 0
    }
    sizes: dict[str, int] = {}
    constants: dict[str, int] = {}
    by_dtype: dict[str, int] = {}
    for index, tensor in enumerate(graph.tensors):
        dtype = dtypes[tensor.type]
        size = (prod(_shape(tensor)) * BITS.get(dtype, 0) + 7) // 8
        if index in constant:
            constants[str(index)] = size
            by_dtype[dtype.lower()] = by_dtype.get(dtype.lower(), 0) + size
        else:
            sizes[str(index)] = size
    steps = []
    for place, operator in enumerate(graph.operators):
        code = model.operatorCodes[operator.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        reads = [index for index in operator.inputs if index >= 0]
        tensors = [graph.tensors[index] for index in reads]
        results = [graph.tensors[index] for index in operator.outputs]
        compute = _compute(kind, [dtypes[tensor.type].lower() for tensor in (*tensors[:2], *results[:1])])
        macs = _macs(kind, [_shape(tensor) for tensor in tensors], [_shape(tensor) for tensor in results], operator)
        steps.append(
            Step(
                f"{kind}_{place}",
                kind,
                compute,
                macs,
                tuple(map(str, reads)),
                tuple(map(str, operator.outputs)),
            )
        )
    return account(f"TFLite schema {model.version}", steps, sizes, constants, by_dtype)


@cache
def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _shape(tensor: Any) -> list[int]:
    return [int(size) for size in tensor.shape] if tensor.shape is not None else []


def _compute(kind: str, dtypes: list[str]) -> str:
    """Integer kernels have integer inputs and outputs. Float data with int8 weights is the hybrid (dynamic) kernel."""
    if not dtypes:
        return "none"
    if kind in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "BATCH_MATMUL") and dtypes[:2] == [
        "float32",
        "int8",
    ]:
        return "int8"
    if kind == "TRANSPOSE_CONV":
        return dtypes[-1]
    return "float32" if "float32" in dtypes[:1] else dtypes[0]


def _macs(kind: str, inputs: list[list[int]], outputs: list[list[int]], operator: Any) -> int:
    if kind in CONVOLUTIONS:  # the weight is [out, spatial..., in]
        return convolution_macs(outputs[0], inputs[1])
    if kind == "DEPTHWISE_CONV_2D":  # the weight is [1, h, w, out]
        return prod(outputs[0]) * prod(inputs[1][:-1])
    if kind == "TRANSPOSE_CONV":  # inputs: output shape, weight [out, h, w, in], data
        return transposed_convolution_macs(inputs[2], [1, inputs[1][0], *inputs[1][1:3]])
    if kind == "FULLY_CONNECTED":  # the weight is [out, in]
        return prod(outputs[0]) * inputs[1][-1]
    if kind == "BATCH_MATMUL":
        return matmul_macs(inputs[0], outputs[0], transposed=bool(getattr(operator.builtinOptions, "adjX", False)))
    return 0
