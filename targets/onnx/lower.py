"""Program -> ONNX file: torch's exporter, then names, order and bytes made stable."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from edgewright.pipeline.decompose_once import decomposing_once
from edgewright.pipeline.exported import as_exported
from edgewright.pipeline.passes.stored_integers import narrow_layers
from edgewright.pipeline.program import Program
from edgewright.pipeline.quiet import quiet
from edgewright.pipeline.shapes import SHAPES
from edgewright.targets.onnx.blocks import halve_scales, narrow_weights, pack_blocks, translations
from edgewright.targets.onnx.norms import part_norms
from edgewright.targets.onnx.pooling import pool_means
from edgewright.targets.onnx.promotion import promoting_where_needed
from edgewright.targets.onnx.rewriting import matching_by_operation

INT8, FLOAT16, BFLOAT16 = 3, 10, 16  # onnx.TensorProto's
EXPORTED = 21  # later opsets add dtypes to the operations of this one, and others that older runtimes lack


def write_onnx(program: Program, path: Path, *, opset: int = 20, zero_points: bool = True) -> None:
    """Write a legalized program as one ONNX file with the program's own input and output names."""
    import onnx
    import torch

    known = translations(program)
    with quiet(), decomposing_once(), promoting_where_needed():
        exported = torch.onnx.export(
            as_exported(program),
            dynamo=True,
            verbose=False,
            opset_version=min(opset, EXPORTED),
            optimize=False,
            custom_translation_table=known,
        )
        if exported is None:
            raise RuntimeError("torch.onnx.export returned nothing")
        _optimize(exported.model)
    model = exported.model_proto
    _name_ports(model, [spec.name for spec in program.inputs], [spec.name for spec in program.outputs])
    if zero_points:
        pool_means(model)
        part_norms(model)
        if narrow_layers(program):
            narrow_weights(model)
    else:
        _drop_zero_points(model)
    if known:
        pack_blocks(model, opset)
        if zero_points:
            halve_scales(model)
    _strip_traces(model)
    _state_versions(model, opset)
    if program.dims:
        _name_dims(model, program)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _optimize(model: Any) -> None:
    """What torch.onnx.export does by default, except that stored weights are not folded into float32 ones.

    Layers that share a weight (ALBERT's) share its transposed form, too, whatever its size.
    """
    import onnxscript
    from onnx_ir.passes.common import DeduplicateInitializersPass

    def folds(node: Any) -> bool | None:
        stored = any(value is not None and value.dtype in (INT8, FLOAT16, BFLOAT16) for value in node.inputs)
        return False if node.op_type == "Cast" and stored else None

    with matching_by_operation():
        onnxscript.optimizer.optimize_ir(model, should_fold=folds)
        onnxscript.rewriter.onnx_fusions.fuse(model)
    DeduplicateInitializersPass(size_limit=sys.maxsize)(model)


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


def _name_dims(model: Any, program: Program) -> None:
    """Give open dimensions the program's names, also within sizes computed from them, and record their bounds."""
    import onnx

    names = {
        size.dim_param: str(name)
        for value, spec in zip(model.graph.input, program.inputs, strict=True)
        for size, name in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True)
        if size.dim_param
    }
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size.dim_param)
    onnx.helper.set_model_props(model, {SHAPES: program.shapes.text()})


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


def _state_versions(model: Any, opset: int) -> None:
    """The oldest IR version that has the opset: torch states a newer one, which ONNX Runtime 1.17 refuses unread."""
    import onnx

    stated = next(entry for entry in model.opset_import if entry.domain == "")
    if stated.version != min(opset, EXPORTED):
        raise RuntimeError(f"torch.onnx.export wrote opset {stated.version}, not {min(opset, EXPORTED)}")
    stated.version = opset
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))


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
