"""What an IR holds, and what the CPU plugin makes of it: the compiled model's own runtime graph."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edgewright.targets.accounting import (
    Step,
    account,
    convolution_macs,
    matmul_macs,
    transposed_convolution_macs,
)
from edgewright.targets.base import Inspection, Operation
from edgewright.targets.openvino.run import compile_model

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "boolean": "bool", "f64": "float64"} | {
    f"{letter}{bits}": f"{word}{bits}" for letter, word in (("i", "int"), ("u", "uint")) for bits in (4, 8, 16, 32, 64)
}
CONVOLUTIONS = {"Convolution", "GroupConvolution"}
TRANSPOSED = {"ConvolutionBackpropData", "GroupConvolutionBackpropData", "Deconvolution"}
PRODUCTS = {"MatMul", "FullyConnected"}


def inspect_ir(path: Path) -> Inspection:
    """Read an IR file of our own or of others."""
    import openvino

    model = openvino.Core().read_model(str(path))
    steps: list[Step] = []
    sizes: dict[str, int] = {}
    constants: dict[str, int] = {}
    by_dtype: dict[str, int] = {}
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        reads = tuple(_value(port.get_source_output()) for port in node.inputs())
        writes = tuple(_value(port) for port in node.outputs())
        size = sum(port.get_tensor().size if port.partial_shape.is_static else 0 for port in node.outputs())
        if kind == "Constant":
            dtype = _dtype(node.output(0).element_type.get_type_name())
            constants[writes[0]] = size
            by_dtype[dtype] = by_dtype.get(dtype, 0) + size
            continue
        sizes |= {_value(port): port.get_tensor().size for port in node.outputs() if port.partial_shape.is_static}
        if kind not in ("Parameter", "Result"):
            steps.append(Step(node.get_friendly_name(), kind, _stated(node), _macs(node, kind), reads, writes))
    layers = compile_model(path, 1).get_runtime_model().get_ordered_ops()
    stated = {step.name: step.macs for step in steps if step.macs}
    executed = [kernel for node in layers if _layer(node) != "Const" for kernel in _kernels(node, stated)]
    return account(f"OpenVINO IR {_version(path)}", steps, sizes, constants, by_dtype, executed)


def _version(path: Path) -> str:
    """The version that the .xml states; only its first element is read."""
    _, root = next(ElementTree.iterparse(path, events=("start",)))
    return str(root.get("version"))


def _value(port: Any) -> str:
    return f"{port.get_node().get_friendly_name()}.{port.get_index()}"


def _dtype(name: str) -> str:
    return DTYPES.get(name, name)


def _layer(node: Any) -> str:
    return str(node.get_rt_info()["layerType"].astype(str))


def _stated(node: Any) -> str:
    """The dtype that the file asks for: integer where every operand of a product is dequantized or fake-quantized."""
    if node.get_type_name() not in CONVOLUTIONS | TRANSPOSED | PRODUCTS:
        return _dtype(node.output(0).element_type.get_type_name()) if node.outputs() else "none"
    return "int8" if all(_quantized(port.get_source_output().get_node()) for port in node.inputs()[:2]) else "float32"


def _quantized(node: Any) -> bool:
    for _ in range(8):
        kind = node.get_type_name()
        if kind == "FakeQuantize" or (kind == "Constant" and "8" in node.output(0).element_type.get_type_name()):
            return True
        if kind not in ("Multiply", "Subtract", "Convert", "Reshape", "Transpose", "Unsqueeze"):
            return False
        node = node.input(0).get_source_output().get_node()
    return False


def _shape(port: Any) -> list[int]:
    return [size.get_length() if size.is_static else 1 for size in port.partial_shape]


def _macs(node: Any, kind: str) -> int:
    if kind in CONVOLUTIONS:
        weight = _shape(node.input(1).get_source_output())
        if kind == "GroupConvolution":
            weight = [weight[0] * weight[1], *weight[2:]]
        return convolution_macs(_shape(node.output(0)), weight)
    if kind in TRANSPOSED:
        weight = _shape(node.input(1).get_source_output())
        if kind == "GroupConvolutionBackpropData":
            weight = weight[1:]
        return transposed_convolution_macs(_shape(node.input(0).get_source_output()), weight)
    if kind in PRODUCTS:
        left = _shape(node.input(0).get_source_output())
        return matmul_macs(left, _shape(node.output(0)), transposed=bool(node.get_attributes().get("transpose_a")))
    return 0


def _kernels(node: Any, stated: Mapping[str, int]) -> list[Operation]:
    """A layer of the runtime graph; of a fused subgraph, every product in it.

    The plugin compiles whole perceptrons and attention heads into one `Subgraph` that shows the dtype of its result
    only. A product in it runs in integers when its dequantization was moved behind it.
    """
    if _layer(node) != "Subgraph":
        return [_kernel(node, stated)]
    names = str(node.get_rt_info()["originalLayersNames"].astype(str)).split(",")
    precision = _dtype(str(node.get_rt_info()["runtimePrecision"].astype(str)))
    products = [
        Operation(name, "Subgraph", "int8" if f"{name}/DequantizationMultiply" in names else precision, stated[name])
        for name in names
        if name in stated
    ]
    return products or [Operation(node.get_friendly_name(), "Subgraph", precision)]


def _kernel(node: Any, stated: Mapping[str, int]) -> Operation:
    """One layer of the runtime graph. Its weights keep the layout of the file: OIHW, or [out, in]."""
    layer = _layer(node)
    precision = _dtype(str(node.get_rt_info()["runtimePrecision"].astype(str)))
    macs = 0
    inputs = [_shape(port.get_source_output()) for port in node.inputs()]
    if layer in CONVOLUTIONS and len(inputs) > 1:
        output = _shape(node.output(0))
        channels = output[1] if len(output) > 1 else 1
        macs = prod(output) * (prod(inputs[1]) // max(channels, 1))
    elif layer in TRANSPOSED and len(inputs) > 1:
        macs = prod(inputs[0]) * (prod(inputs[1]) // max(inputs[0][1], 1))
    elif layer in PRODUCTS and inputs:
        # A transpose may be fused into it, so the file's own count goes before the shapes.
        names = str(node.get_rt_info()["originalLayersNames"].astype(str)).split(",")
        known = [stated[name] for name in names if name in stated]
        macs = known[0] if len(known) == 1 else matmul_macs(inputs[0], _shape(node.output(0)))
    return Operation(node.get_friendly_name(), layer, precision, macs)
