"""Give a converted file the names and dtypes of the program at its outer inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgewright.pipeline.program import TensorSpec


def restore_boundary(
    content: bytes,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    integer: bool = False,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """Edit a FlatBuffer: the graph of each signature.

    The converter makes quantized inputs and outputs integer, where the program's are float: a QUANTIZE behind each
    such input and a DEQUANTIZE before each such output bring the program's dtypes back, unless `integer` asks to
    leave them so. Names are the program's. `notes` go into the metadata.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for signature in model.signatureDefs:
        _restore(schema, model, signature, inputs, outputs, integer=integer)
    notes = {DTYPES: json.dumps({spec.name: spec.dtype for spec in (*inputs, *outputs)}), **notes}
    for name, note in notes.items():
        _record(schema, model, name, note)
    model.description = b"edgewright"
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _restore(
    schema: Any,
    model: Any,
    signature: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    integer: bool,
) -> None:
    graph = model.subgraphs[signature.subgraphIndex]
    by_name = {entry.name.decode(): entry for entry in signature.inputs}
    entries = [by_name[spec.name] for spec in inputs]
    inner = [entry.tensorIndex for entry in entries]
    for spec, entry in zip(inputs, entries, strict=True):
        entry.tensorIndex = _float_input(schema, model, graph, entry.tensorIndex, spec, integer)
    outer = {index: entry.tensorIndex for index, entry in zip(inner, entries, strict=True)}
    graph.inputs = [entry.tensorIndex for entry in entries]
    signature.inputs = entries
    signature.outputs = _in_order(signature.outputs)
    for spec, entry in zip(outputs, signature.outputs, strict=True):
        entry.name = spec.name.encode()
        if entry.tensorIndex in outer:  # an input that is returned as it is
            entry.tensorIndex = outer[entry.tensorIndex]
        else:
            entry.tensorIndex = _float_output(schema, model, graph, entry.tensorIndex, spec, integer)
    graph.outputs = [entry.tensorIndex for entry in signature.outputs]


DTYPES = "edgewright.dtypes"  # metadata of the file: the program's own dtype of each input and output,
# since the converter narrows int64 results to int32; a session widens them again.


def _record(schema: Any, model: Any, name: str, note: str) -> None:
    entry, buffer = schema.MetadataT(), schema.BufferT()
    buffer.data = list(note.encode())
    entry.name, entry.buffer = name.encode(), len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def recorded_dtypes(path: Path) -> dict[str, str]:
    """What `restore_boundary` recorded; empty for files of others."""
    found: dict[str, str] = json.loads(recorded(path, DTYPES) or "{}")
    return found


def recorded(path: Path, name: str) -> str | None:
    """A note in a file's metadata; None where it has none of this name."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(np.memmap(path, mode="r"), 0)  # mapped: a session shall not hold the file twice
    for place in range(model.MetadataLength()):
        entry = model.Metadata(place)
        if entry.Name() == name.encode():
            note: bytes = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            return note.decode()
    return None


def _in_order(entries: Sequence[Any]) -> list[Any]:
    """The converter's outputs by position: it calls them output_0, output_1, ..."""
    by_name = {entry.name.decode(): entry for entry in entries}
    return [by_name[f"output_{place}"] for place in range(len(entries))]


def _float_input(schema: Any, model: Any, graph: Any, index: int, spec: TensorSpec, integer: bool) -> int:
    tensor = graph.tensors[index]
    if integer or tensor.type != schema.TensorType.INT8 or spec.dtype != "float32":
        tensor.name = spec.name.encode()
        return index
    outer = _float_tensor(schema, graph, tensor, spec.name)
    graph.operators.insert(0, append_operator(schema, model, schema.BuiltinOperator.QUANTIZE, outer, index))
    return outer


def _float_output(schema: Any, model: Any, graph: Any, index: int, spec: TensorSpec, integer: bool) -> int:
    tensor = graph.tensors[index]
    if integer or tensor.type != schema.TensorType.INT8 or spec.dtype != "float32":
        tensor.name = spec.name.encode()
        return index
    outer = _float_tensor(schema, graph, tensor, spec.name)
    graph.operators.append(append_operator(schema, model, schema.BuiltinOperator.DEQUANTIZE, index, outer))
    return outer


def _float_tensor(schema: Any, graph: Any, like: Any, name: str) -> int:
    like.name = (name + ".int8").encode()
    outer = schema.TensorT()
    outer.shape, outer.shapeSignature, outer.hasRank = like.shape, like.shapeSignature, True
    outer.type, outer.name, outer.buffer = schema.TensorType.FLOAT32, name.encode(), 0
    graph.tensors.append(outer)
    return len(graph.tensors) - 1


def append_operator(schema: Any, model: Any, kind: int, source: int, result: int) -> Any:
    """A QUANTIZE or DEQUANTIZE from one tensor to another; its place among the operators is the caller's to choose."""
    operator = schema.OperatorT()
    operator.opcodeIndex = find_opcode(schema, model, kind)
    operator.inputs, operator.outputs = [source], [result]
    if kind == schema.BuiltinOperator.QUANTIZE:
        operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
        operator.builtinOptions = schema.QuantizeOptionsT()
    else:
        operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
        operator.builtinOptions = schema.DequantizeOptionsT()
    return operator


def find_opcode(schema: Any, model: Any, kind: int) -> int:
    """The place of an operator's code among a model's, appended where it has none."""
    for place, code in enumerate(model.operatorCodes):
        if code.builtinCode == kind:
            return place
    code = schema.OperatorCodeT()
    code.builtinCode = kind
    code.deprecatedBuiltinCode = min(kind, 127)
    code.version = 2 if kind == schema.BuiltinOperator.DEQUANTIZE else 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
