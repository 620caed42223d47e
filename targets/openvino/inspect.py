"""What an IR holds, and what the CPU plugin makes of it: the compiled model's own runtime graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edgewright.targets.accounting import (
    Executed,
    Gathered,
    Step,
    account,
    attention_macs,
    convolution_macs,
    matmul_macs,
    transposed_convolution_macs,
)
from edgewright.targets.base import Inspection, Operation, release_of
from edgewright.targets.findings import Reader, TensorFact
from edgewright.targets.openvino import LEVELS
from edgewright.targets.openvino.run import compile_model

ZERO_POINTS = 4  # their place among what a linear layer with compressed weights reads
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "boolean": "bool", "f64": "float64"} | {
    f"{letter}{bits}": f"{word}{bits}"
    for letter, word in (("i", "int"), ("u", "uint"))
    for bits in (2, 4, 8, 16, 32, 64)
}
CONVOLUTIONS = {"Convolution", "GroupConvolution"}
TRANSPOSED = {"ConvolutionBackpropData", "GroupConvolutionBackpropData", "Deconvolution"}
PRODUCTS = {"MatMul", "FullyConnected"}
ATTENTION = "ScaledDotProductAttention"


# Opset of the operations -> the first release that has it, before those that versions.py knows by measurement.
OPSETS = {
    1: "2020.1",
    2: "2020.2",
    3: "2020.4",
    4: "2021.1",
    5: "2021.2",
    6: "2021.3",
    7: "2021.4",
    8: "2022.1",
    9: "2022.2",
    10: "2022.3",
    11: "2023.0",
    12: "2023.1",
    13: "2023.2",
}
IRS = {10: "2020.1", 11: "2022.1"}
SOURCE = "docs.openvino.ai: Available Operation Sets; API 2.0 transition guide (IR 11)"


def inspect_ir(path: Path) -> Inspection:
    """Read an IR file of our own or of others; the executed graph is there when the CPU plugin compiles it."""
    import openvino

    contents = _Contents()
    contents.read(openvino.Core().read_model(str(path)), "")
    stated = {step.name: step.macs for step in contents.steps if step.macs}
    executed, trouble = _executed(path, stated, contents.booleans)
    versions, readers = _versions(path)
    found = account(
        f"OpenVINO IR {versions['IR']}",
        contents.steps,
        contents.sizes,
        contents.constants,
        contents.by_dtype,
        executed,
        contents.tensors,
    )
    return replace(found, versions=versions, readers=readers, notes=(*contents.notes, *trouble))


@dataclass
class _Contents(Gathered):
    """What is gathered on the way through a model and the bodies of its If, Loop and TensorIterator operations."""

    booleans: set[str] = field(default_factory=set)

    def read(self, model: Any, prefix: str) -> None:
        """Add a model's operations; those of a body stand before their owner."""
        for node in model.get_ordered_ops():
            kind, name = node.get_type_name(), prefix + node.get_friendly_name()
            for part, body in _bodies(node):
                self.read(body, f"{name}.{part}/")
                self.notes.append(f"the body {name}.{part} is counted once")
            for port in node.outputs():
                self._value(prefix + _value(port), port, kind == "Constant")
            if kind in ("Constant", "Parameter", "Result"):
                continue
            reads = tuple(prefix + _value(port.get_source_output()) for port in node.inputs())
            writes = tuple(prefix + _value(port) for port in node.outputs())
            self.steps.append(Step(name, kind, _stated(node), _macs(node, kind), reads, writes, _permutation(node)))

    def _value(self, name: str, port: Any, constant: bool) -> None:
        dtype = _dtype(port.element_type.get_type_name())
        shape = port.partial_shape
        static = shape.is_static
        sizes = tuple(size.get_length() if size.is_static else -1 for size in shape) if shape.rank.is_static else ()
        if not static and not any(note.startswith("dynamic") for note in self.notes):
            self.notes.append("dynamic dimensions count as 1")
        size = port.get_tensor().size if static else _bytes(port, [max(length, 1) for length in sizes])
        self.tensors[name] = TensorFact(port.get_node().get_friendly_name(), dtype, sizes, size)
        if dtype == "bool":
            self.booleans.add(port.get_node().get_friendly_name())
        if constant:
            self.constants[name] = size
            self.by_dtype[dtype] = self.by_dtype.get(dtype, 0) + size
        else:
            self.sizes[name] = size


def _bodies(node: Any) -> list[tuple[str, Any]]:
    if node.get_type_name() == "If":
        return [("then", node.get_then_body()), ("else", node.get_else_body())]
    return [("body", node.get_function())] if node.get_type_name() in ("Loop", "TensorIterator") else []


def _bytes(port: Any, shape: list[int]) -> int:
    return (prod(shape) * int(port.element_type.bitwidth) + 7) // 8


def _permutation(node: Any) -> tuple[int, ...]:
    if node.get_type_name() != "Transpose":
        return ()
    order = node.input(1).get_source_output().get_node()
    return tuple(int(axis) for axis in order.get_data()) if order.get_type_name() == "Constant" else ()


def _executed(path: Path, stated: Mapping[str, int], booleans: set[str]) -> tuple[Executed | None, list[str]]:
    """The CPU plugin's own runtime graph; None, and why, when it does not compile the file."""
    import openvino

    try:
        compiled = compile_model(path, 1)
        layers = compiled.get_runtime_model().get_ordered_ops()
        rounds = int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) > 0
    except Exception as error:  # noqa: BLE001  (the plugin raises RuntimeError and others on files that it cannot take)
        reason = str(error).strip().splitlines()[-1]
        return None, [f"OpenVINO {openvino.__version__.split('-')[0]} does not compile the file: {reason}"]
    steps: list[Step] = []
    dtypes: dict[str, str] = {}
    sizes: dict[str, int] = {}
    constants = set()
    for node in layers:
        for port in node.outputs():
            dtype = _dtype(port.element_type.get_type_name())
            # A mask of booleans is u8 in the plugin: it is no quantized value.
            dtypes[_value(port)] = "bool" if booleans.intersection(_originals(node)[-1:]) else dtype
            sizes[_value(port)] = 0 if dtype == "dynamic" else _bytes(port, _shape(port))
        if _layer(node) == "Const":
            constants |= {_value(port) for port in node.outputs()}
            continue
        reads = tuple(_value(port.get_source_output()) for port in node.inputs())
        writes = tuple(_value(port) for port in node.outputs())
        for place, kernel in enumerate(_kernels(node, stated, rounds)):
            edges = (reads, writes) if place == 0 else ((), ())
            steps.append(Step(kernel.name, kernel.op, kernel.compute, kernel.macs, *edges))
    return Executed(tuple(steps), dtypes, sizes, frozenset(constants)), []


def _originals(node: Any) -> list[str]:
    return str(node.get_rt_info()["originalLayersNames"].astype(str)).split(",")


def _versions(path: Path) -> tuple[dict[str, str], tuple[Reader, ...]]:
    """The versions that the .xml states, and the oldest release that has them all."""
    opsets, ir = {1}, 0
    for _, element in ElementTree.iterparse(path, events=("start",)):
        version = str(element.get("version", ""))
        if element.tag == "net":
            ir = int(version)
        elif element.tag == "layer" and version.removeprefix("opset").isdecimal():
            opsets.add(int(version.removeprefix("opset")))
    newest = max(opsets)
    because, asked = f"opset {newest}, IR {ir}", [IRS.get(ir, ""), OPSETS.get(newest, "")]
    source = SOURCE
    if newest not in OPSETS:
        level = next((level for level in LEVELS if level.format["opset"] >= newest), None)
        asked[1] = level.minimum["openvino"] if level is not None else ""
        source = "looked up in the releases themselves, installed side by side"
    oldest = max(asked, key=release_of) if all(asked) else ""
    return {"IR": str(ir), "opset": str(newest)}, (Reader("OpenVINO", oldest, because, source),)


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
    if kind == ATTENTION:
        query, key, value = (_shape(node.input(place).get_source_output()) for place in range(3))
        return attention_macs(query, key, value)
    return 0


def _kernels(node: Any, stated: Mapping[str, int], rounds: bool) -> list[Operation]:
    """A layer of the runtime graph; of a fused subgraph, every product in it.

    The plugin compiles whole perceptrons and attention heads into one `Subgraph` that shows the dtype of its result
    only. A product in it runs in integers when its dequantization was moved behind it.
    """
    if _layer(node) != "Subgraph":
        return [_kernel(node, stated, rounds)]
    names = _originals(node)
    precision = _dtype(str(node.get_rt_info()["runtimePrecision"].astype(str)))
    products = [
        Operation(name, "Subgraph", "int8" if f"{name}/DequantizationMultiply" in names else precision, stated[name])
        for name in names
        if name in stated
    ]
    return products or [Operation(node.get_friendly_name(), "Subgraph", precision)]


def _kernel(node: Any, stated: Mapping[str, int], rounds: bool) -> Operation:
    """One layer of the runtime graph. Its weights keep the layout of the file: OIHW, or [out, in].

    A linear layer with compressed weights and float activations shows the weights' dtype; it computes in 8 bits where
    the plugin `rounds` activations as they come, and in float otherwise: so it does beside zero points in float.
    """
    layer = _layer(node)
    precision = _dtype(str(node.get_rt_info()["runtimePrecision"].astype(str)))
    if layer == "FullyConnected" and precision.startswith(("int", "uint")):
        read = _dtype(node.input(0).get_source_output().element_type.get_type_name())
        zero_points = [_dtype(port.get_element_type().get_type_name()) for port in node.inputs()[ZERO_POINTS:]]
        rounds = rounds and not any("float" in dtype for dtype in zero_points)
        precision = ("int8" if rounds else read) if "float" in read else precision
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
        names = _originals(node)
        known = [stated[name] for name in names if name in stated]
        macs = known[0] if len(known) == 1 else matmul_macs(inputs[0], _shape(node.output(0)))
    elif layer == ATTENTION:
        macs = sum(stated.get(name, 0) for name in _originals(node))
    return Operation(node.get_friendly_name(), layer, precision, macs)
