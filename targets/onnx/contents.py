"""An ONNX file as a flat list of operations: functions inlined, bodies of If, Loop and Scan spelled out in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from edgewright.errors import TargetError
from edgewright.targets.findings import TensorFact

BITS = {"INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2, "FLOAT4E2M1": 4, "STRING": 0, "UNDEFINED": 0}


@dataclass(frozen=True)
class Node:
    """One operation; names of values inside of a body carry the body's place."""

    name: str
    op: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Contents:
    """All that the inspector needs; `model` is the proto with functions inlined, without external data."""

    model: Any
    path: Path
    nodes: tuple[Node, ...]
    tensors: Mapping[str, TensorFact]
    constant_bytes: Mapping[str, int]
    opsets: Mapping[str, str]
    ir: str
    notes: tuple[str, ...] = ()
    external: bool = False

    @property
    def activation_bytes(self) -> dict[str, int]:
        return {name: fact.bytes for name, fact in self.tensors.items() if name not in self.constant_bytes}

    @property
    def bytes_by_dtype(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for name, size in self.constant_bytes.items():
            dtype = self.tensors[name].dtype
            sizes[dtype] = sizes.get(dtype, 0) + size
        return sizes


@dataclass
class _Reading:
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, TensorFact] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)


def read_contents(path: Path) -> Contents:
    """Read a file; the values of external data stay on the disk.

    Raises:
        TargetError: not an ONNX model, or its external data is missing or too short.
    """
    import onnx
    import onnx.inliner

    model = onnx.load(str(path), load_external_data=False)
    if not model.opset_import or (not model.graph.node and not model.graph.output):
        raise TargetError("the file holds no ONNX model", got=f"{path.stat().st_size} bytes", where=path)
    external = _check_external(model, path)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    reading = _Reading()
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # noqa: BLE001  (files of others fail in many ways, and most can be read without)
        reading.notes[f"shapes could not be inferred: {str(error).strip().splitlines()[0]}"] = None
    _read_graph(model.graph, {}, "", reading)
    # Editors of files leave shapes behind of values that are gone.
    there = {name for node in reading.nodes for name in (*node.reads, *node.writes)} | set(reading.constants)
    opsets = {entry.domain or "opset": str(entry.version) for entry in model.opset_import}
    used = {node.domain for node in _all_nodes(model.graph)}
    opsets = {name: version for name, version in opsets.items() if name == "opset" or name in used}
    return Contents(
        model,
        path,
        tuple(reading.nodes),
        {name: fact for name, fact in reading.tensors.items() if name in there},
        reading.constants,
        opsets,
        str(model.ir_version),
        tuple(reading.notes),
        external,
    )


def _all_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _all_nodes(body)


def _check_external(model: Any, path: Path) -> bool:
    """Whether weights lie in other files, which have to be there."""
    import onnx.external_data_helper as helper

    found = False
    for tensor in model.graph.initializer:
        if not helper.uses_external_data(tensor):
            continue
        found = True
        info = helper.ExternalDataInfo(tensor)
        file = path.parent / info.location
        size = file.stat().st_size if file.is_file() else -1
        needed = (info.offset or 0) + (info.length or 0)
        if size < needed:
            raise TargetError(
                "external data of the file is missing" if size < 0 else "external data of the file is too short",
                got=f"{info.location}: " + ("no such file" if size < 0 else f"{size} bytes"),
                expected=f"{needed} bytes for {tensor.name}",
                where=path,
                do="put the file with the weights beside the .onnx file",
            )
    return found


def _read_graph(graph: Any, outer: Mapping[str, str], prefix: str, reading: _Reading) -> None:
    """`outer` maps the names of the enclosing graphs to ours."""
    local = {value.name for value in graph.input} | {value.name for value in graph.initializer}
    local |= {name for node in graph.node for name in node.output if name}
    scope = {**outer, **{name: prefix + name for name in local}}
    for value in (*graph.input, *graph.value_info, *graph.output):
        _read_value(value, scope.get(value.name, prefix + value.name), reading)
    for tensor in graph.initializer:
        _read_constant(tensor, scope[tensor.name], reading)
    for sparse in graph.sparse_initializer:
        _read_constant(sparse.values, prefix + sparse.values.name, reading)
    for place, node in enumerate(graph.node):
        _read_node(node, prefix + (node.name or f"{node.op_type}_{place}"), scope, reading)


def _read_node(node: Any, name: str, scope: Mapping[str, str], reading: _Reading) -> None:
    from onnx import helper

    writes = tuple(scope.get(output, output) for output in node.output)
    if node.op_type == "Constant" and writes:
        for attribute in node.attribute:
            if attribute.name == "value":
                _read_constant(attribute.t, writes[0], reading)
            elif attribute.name.startswith("value_"):
                reading.constants[writes[0]] = 0  # a few numbers in the node itself: a setting
                reading.tensors.setdefault(writes[0], TensorFact(writes[0], "int64", (), 0))
        return
    reads = [scope.get(value, value) for value in node.input]
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for number, body in enumerate(bodies):
            inner = f"{name}.{attribute.name}{number or ''}/"
            _read_graph(body, scope, inner, reading)
            reads += [f"{inner}{value.name}" for value in body.output]
            reading.notes[f"the bodies of {node.op_type} operations are counted once"] = None
        if not bodies:
            attributes[attribute.name] = helper.get_attribute_value(attribute)
    reading.nodes.append(Node(name, node.op_type, tuple(reads), writes, attributes))


def _read_value(value: Any, name: str, reading: _Reading) -> None:
    tensor = value.type.tensor_type
    if not tensor.elem_type or name in reading.constants or not tensor.HasField("shape"):
        return
    shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim)
    dynamic = sorted({size.dim_param for size in tensor.shape.dim if size.dim_param})
    if -1 in shape:
        named = f" ({', '.join(dynamic)})" if dynamic and not name.count("/") else ""
        if named or not reading.notes:
            reading.notes.setdefault(f"dynamic dimensions{named} count as 1", None)
    reading.tensors[name] = fact(name, tensor.elem_type, shape)


def _read_constant(tensor: Any, name: str, reading: _Reading) -> None:
    reading.tensors[name] = fact(name, tensor.data_type, tuple(tensor.dims))
    reading.constants[name] = reading.tensors[name].bytes


def fact(name: str, elem_type: int, shape: tuple[int, ...]) -> TensorFact:
    """Dtype, shape and bytes of a value; packed dtypes at their packed size."""
    import numpy as np
    from onnx import TensorProto, helper

    kind = TensorProto.DataType.Name(elem_type)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(elem_type)) if kind not in ("STRING", "UNDEFINED") else None
    bits = BITS.get(kind, 8 * dtype.itemsize if dtype is not None else 0)
    size = (prod(max(length, 1) if length < 0 else length for length in shape) * bits + 7) // 8
    return TensorFact(name, dtype.name if dtype is not None else kind.lower(), shape, size)
