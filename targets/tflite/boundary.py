"""Give a converted file the names and dtypes of the program at its outer inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewright.targets.tflite.editing import Editing, GraphEditing

if TYPE_CHECKING:
    from edgewright.pipeline.program import TensorSpec


def restore_boundary(
    file: Editing,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    integer: bool = False,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Edit the graph of each signature.

    The converter makes quantized inputs and outputs integer, where the program's are float: a QUANTIZE behind each
    such input and a DEQUANTIZE before each such output bring the program's dtypes back, unless `integer` asks to
    leave them so. Names are the program's. `notes` go into the metadata.
    """
    graphs = file.graphs()
    for signature in file.model.signatureDefs:
        _restore(graphs[signature.subgraphIndex], signature, inputs, outputs, integer=integer)
    notes = {DTYPES: json.dumps({spec.name: spec.dtype for spec in (*inputs, *outputs)}), **notes}
    for name, note in notes.items():
        _record(file, name, note)
    file.model.description = b"edgewright"


def _restore(
    graph: GraphEditing,
    signature: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    integer: bool,
) -> None:
    by_name = {entry.name.decode(): entry for entry in signature.inputs}
    entries = [by_name[spec.name] for spec in inputs]
    inner = [entry.tensorIndex for entry in entries]
    for spec, entry in zip(inputs, entries, strict=True):
        entry.tensorIndex = _float_input(graph, entry.tensorIndex, spec, integer)
    outer = {index: entry.tensorIndex for index, entry in zip(inner, entries, strict=True)}
    graph.graph.inputs = [entry.tensorIndex for entry in entries]
    signature.inputs = entries
    signature.outputs = _in_order(signature.outputs)
    for spec, entry in zip(outputs, signature.outputs, strict=True):
        entry.name = spec.name.encode()
        if entry.tensorIndex in outer:  # an input that is returned as it is
            entry.tensorIndex = outer[entry.tensorIndex]
        else:
            entry.tensorIndex = _float_output(graph, entry.tensorIndex, spec, integer)
    graph.graph.outputs = [entry.tensorIndex for entry in signature.outputs]


DTYPES = "edgewright.dtypes"  # metadata of the file: the program's own dtype of each input and output,
# since the converter narrows int64 results to int32; a session widens them again.


def _record(file: Editing, name: str, note: str) -> None:
    entry = file.schema.MetadataT()
    entry.name, entry.buffer = name.encode(), file.add_buffer(note.encode())
    file.model.metadata = [*(file.model.metadata or []), entry]


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


def _float_input(graph: GraphEditing, index: int, spec: TensorSpec, integer: bool) -> int:
    outer = index if integer else _float_tensor(graph, index, spec)
    if outer != index:
        graph.graph.operators.insert(0, graph.quantize(outer, index))
    graph.tensor(outer).name = spec.name.encode()
    return outer


def _float_output(graph: GraphEditing, index: int, spec: TensorSpec, integer: bool) -> int:
    outer = index if integer else _float_tensor(graph, index, spec)
    if outer != index:
        graph.graph.operators.append(graph.dequantize(index, outer))
    graph.tensor(outer).name = spec.name.encode()
    return outer


def _float_tensor(graph: GraphEditing, index: int, spec: TensorSpec) -> int:
    """A new tensor of float32 for one of int8 where the program has floats; the same one otherwise."""
    tensor, types = graph.tensor(index), graph.schema.TensorType
    if tensor.type != types.INT8 or spec.dtype != "float32":
        return index
    tensor.name = f"{spec.name}.int8".encode()
    return graph.add_like(index, b"", types.FLOAT32)
