"""Program -> ONNX file: torch's exporter, then names, order and bytes made stable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgewright.pipeline.program import Program
from edgewright.pipeline.quiet import quiet


def write_onnx(program: Program, path: Path, *, zero_points: bool = True) -> None:
    """Write a legalized program as one ONNX file with the program's own input and output names."""
    import onnx
    import torch

    with quiet():
        exported = torch.onnx.export(program.exported(), dynamo=True, verbose=False)
    if exported is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = exported.model_proto
    _name_ports(model, [spec.name for spec in program.inputs], [spec.name for spec in program.outputs])
    if not zero_points:
        _drop_zero_points(model)
    _strip_traces(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _name_ports(model: Any, inputs: list[str], outputs: list[str]) -> None:
    """Rename inputs and outputs; an inner value that holds a wanted name makes room for it."""
    ports = dict(zip((value.name for value in model.graph.input), inputs, strict=True))
    ports |= dict(zip((value.name for value in model.graph.output), outputs, strict=True))
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    taken |= {value.name for value in model.graph.initializer}
    names = {name: f"{name}.inner" for name in taken if name in ports.values() and name not in ports}
    names |= ports
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _drop_zero_points(model: Any) -> None:
    """Leave zero points of weights out where they are all 0, the default.

    OpenVINO computes linear layers of matrices in float otherwise; ONNX Runtime fuses them only with it.
    """
    import onnx.numpy_helper

    signed = {
        value.name
        for value in model.graph.initializer
        if value.data_type == onnx.TensorProto.INT8 and value.dims and not onnx.numpy_helper.to_array(value).any()
    }
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3 and node.input[2] in signed:
            del node.input[2]
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    kept = [value for value in model.graph.initializer if value.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _strip_traces(model: Any) -> None:
    """Drop stack traces and module lists: they hold absolute paths, so a moved source folder changed the bytes."""
    for holder in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
    ):
        del holder.metadata_props[:]
        holder.doc_string = ""
    model.graph.name = "main"
    model.producer_name, model.producer_version = "edgewright", ""
