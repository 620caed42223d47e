"""Read the graph that XNNPACK's delegate carries inside of a .pte file."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgewright.targets.findings import TensorFact

DTYPES = {
    "fp32": ("float32", 32),
    "pfp32": ("float32", 32),
    "fp16": ("float16", 16),
    "bf16": ("bfloat16", 16),
    "qint8": ("int8", 8),
    "qcint8": ("int8", 8),
    "qdint8": ("int8", 8),
    "qpint8": ("int8", 8),
    "quint8": ("uint8", 8),
    "qcint4": ("int4", 4),
    "qbint4": ("int4", 4),
    "qint32": ("int32", 32),
    "qcint32": ("int32", 32),
    "int32": ("int32", 32),
}
NOTHING = 0xFFFFFFFF  # the id of an operand that is not there


@dataclass(frozen=True)
class Layer:
    """One node of the delegate's graph; `shapes` are those of what it reads, channels last."""

    op: str
    compute: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    shapes: tuple[list[int], ...]
    output_shape: list[int]
    groups: int
    permutation: tuple[int, ...] = ()


@dataclass(frozen=True)
class DelegateGraph:
    """Layers in order; computed values and constants by name."""

    layers: tuple[Layer, ...]
    activations: Mapping[str, TensorFact]
    constants: Mapping[str, TensorFact]


def read_delegate(payload: bytes, name: str, outer: Sequence[str], named: Any) -> DelegateGraph:
    """The graph of one delegate.

    Args:
        payload: what the file keeps for the delegate: a header, then a FlatBuffer of XNNPACK's own schema.
        name: begins the names of its inner values.
        outer: what the program calls the delegate's inputs and outputs, in their order.
        named: the program's store of constants, which delegates refer to by key.
    """
    graph = _decode(payload)
    sizes = {key: len(named.buffers[entry.buffer_index]) for key, entry in named.pte_data.items()} if named else {}
    values = {int(tensor["id_out"]): (tensor, params) for tensor, params in map(_tensor, graph["xvalues"])}
    names: dict[int, str] = {}
    activations: dict[str, TensorFact] = {}
    constants: dict[str, TensorFact] = {}
    for number, (tensor, params) in values.items():
        (dtype, bits), shape = _dtype(tensor), tuple(tensor["dims"])
        if tensor["constant_buffer_idx"]:
            names[number] = _constant(graph, tensor["constant_buffer_idx"], name, dtype, shape, sizes, constants)
            if params.get("num_scales", 0) and params.get("scale_buffer_idx", 0):
                scales = (int(params["num_scales"]),)
                _constant(graph, params["scale_buffer_idx"], name, "float32", scales, sizes, constants)
            continue
        is_outer = tensor["external_id"] < len(outer) and tensor["external_id"] < graph["num_externs"]
        names[number] = outer[tensor["external_id"]] if is_outer else f"{name}.{number}"
        activations[names[number]] = TensorFact(names[number], dtype, shape, prod(shape) * bits // 8)
    layers = tuple(_layer(node["xnode_union_type"], node["xnode_union"], values, names) for node in graph["xnodes"])
    return DelegateGraph(layers, activations, constants)


def _decode(payload: bytes) -> dict[str, Any]:
    """The FlatBuffer as plain data, by the reader and the schema that ExecuTorch ships."""
    from importlib.resources import files

    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    content = payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size]
    schema = files("executorch.backends.xnnpack.serialization").joinpath("schema.fbs").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "schema.fbs").write_bytes(schema)
        (Path(folder) / "graph.bin").write_bytes(content)
        _flatc_decompile(folder, str(Path(folder) / "schema.fbs"), str(Path(folder) / "graph.bin"), ["--raw-binary"])
        text = (Path(folder) / "graph.json").read_text(encoding="utf-8")
    # It writes infinite limits as C does, which is no JSON.
    decoded: dict[str, Any] = json.loads(re.sub(r": (-?)inf\b", r": \1Infinity", text))
    return decoded


def _tensor(value: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A value's tensor and, where it is quantized, how."""
    union = value["xvalue_union"]
    return (union["tensor_value"], union["quant_params"]) if "tensor_value" in union else (union, {})


def _dtype(tensor: dict[str, Any]) -> tuple[str, int]:
    word = tensor["datatype"].removeprefix("xnn_datatype_")
    return DTYPES.get(word, (word, 0))


def _constant(
    graph: dict[str, Any],
    index: int,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    sizes: Mapping[str, int],
    constants: dict[str, TensorFact],
) -> str:
    entry = graph["constant_data"][index]
    key = entry["named_key"] or f"{name}.constant_{index}"
    constants[key] = TensorFact(key, dtype, shape, sizes.get(entry["named_key"], entry["size"]))
    return key


def _operands(node: dict[str, Any]) -> Iterator[int]:
    """Ids of what a node reads, in its schema's order (data, weight, bias)."""
    order = ("query_id", "key_id", "value_id", "scale_id", "mask_id", "input_id")
    keys = (*order, *(f"input{place}_id" for place in range(1, 6)), "filter_id", "bias_id")
    yield from (node[key] for key in keys if node.get(key, NOTHING) != NOTHING)


def _layer(kind: str, node: dict[str, Any], values: Mapping[int, Any], names: Mapping[int, str]) -> Layer:
    reads = [number for number in _operands(node) if number in values]
    writes = [node[key] for key in ("output_id", "output_value_id", "output_index_id") if node.get(key) in values]
    dtypes = [_dtype(values[number][0])[0] for number in reads]
    op = kind.removeprefix("XNN")
    if op == "Convert" and (results := [_dtype(values[number][0])[0] for number in writes]) != dtypes:
        op = "Quantize" if "int" in results[0] else "Dequantize"
    return Layer(
        op=op,
        compute=dtypes[0] if dtypes else "none",
        reads=tuple(names[number] for number in reads),
        writes=tuple(names[number] for number in writes),
        shapes=tuple(values[number][0]["dims"] for number in reads),
        output_shape=values[writes[0]][0]["dims"] if writes else [],
        groups=node.get("groups", 1),
        permutation=tuple(node.get("perm", ())),
    )
