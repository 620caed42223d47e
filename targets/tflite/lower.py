"""Program -> TFLite file: LiteRT's converter, then the outer inputs and outputs as the program has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewright.pipeline.decompose_once import decomposing_once
from edgewright.pipeline.exported import exporting_as_given
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.graph import add_constant
from edgewright.pipeline.passes.graph import replace as replace_node
from edgewright.pipeline.passes.keep_weights import KeepWeights
from edgewright.pipeline.passes.rounded_rows import rounded_rows
from edgewright.pipeline.passes.stored_integers import StoredIntegers, narrow_layers, stored_weights
from edgewright.pipeline.program import Program
from edgewright.pipeline.quiet import quiet
from edgewright.pipeline.shapes import SHAPES, OpenShapes
from edgewright.targets.tflite.boundary import restore_boundary
from edgewright.targets.tflite.editing import Editing
from edgewright.targets.tflite.guards import release_guards
from edgewright.targets.tflite.halve import halve_constants
from edgewright.targets.tflite.narrow import narrow_weights
from edgewright.targets.tflite.pack import pack_weights
from edgewright.targets.tflite.respell import respell


def write_tflite(
    programs: Mapping[str, Program], path: Path, *, shapes: OpenShapes, integer_boundary: bool = False
) -> None:
    """Write legalized programs as one TFLite file, one signature each; they share the weights.

    Args:
        programs: by name of signature; one program, or one at several sizes.
        shapes: the inputs as they were before their sizes were fixed.
    """
    stored = {weight.name: weight for program in programs.values() for weight in _stored_by_us(program)}
    floated = {name: _with_float_weights(program) for name, program in programs.items()} if stored else programs
    with quiet(), decomposing_once(), exporting_as_given(floated.values()):
        import litert_torch
        from litert_torch import progress
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
        from litert_torch.quantize.quant_config import QuantConfig

        # Without a static config the converter leaves QUANTIZE and DEQUANTIZE around float operations: a file that
        # is larger and slower than float32, and numerically perfect.
        static = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False))
        shown, progress.config.show_progress = progress.config.show_progress, False
        try:
            converter: Any = litert_torch
            for name, program in floated.items():
                named = {spec.name: tensor for spec, tensor in zip(program.inputs, program.example, strict=True)}
                converter = converter.signature(name, program.module.eval(), sample_kwargs=named)
            converted = converter.convert(quant_config=QuantConfig(pt2e_quantizer=static))
            content = converted.model_content() if hasattr(converted, "model_content") else _export(converted, path)
        finally:
            progress.config.show_progress = shown
    notes = {SHAPES: replace(shapes, listed=True).text()} if shapes.dims else {}
    file = Editing.of(content)
    restore_boundary(file, program.inputs, program.outputs, integer=integer_boundary, notes=notes)
    respell(file)
    release_guards(file)
    if stored:
        pack_weights(file, stored.values())
    if any(map(narrow_layers, programs.values())):
        narrow_weights(file)
    if "float16" in program.weight_bytes():
        halve_constants(file)
    path.write_bytes(file.packed())


def _export(converted: object, path: Path) -> bytes:
    converted.export(str(path))  # type: ignore[attr-defined]
    return path.read_bytes()


def _stored_by_us(program: Program) -> list[StoredIntegers]:
    return [weight for weight in stored_weights(program) if weight.is_weight_only or weight.meets_rounded_rows]


def _with_float_weights(program: Program) -> Program:
    """The same with weight-only integers restored: the converter would compute that in the file.

    So it would the rounding of rows, which LiteRT's kernels for float rows and integer weights do themselves.
    """
    work = program.clone()
    stored = _stored_by_us(work)
    for rounded in rounded_rows(work):
        rounded.node.replace_all_uses_with(rounded.source)
    work.erase_dead()
    KeepWeights(frozenset(weight.name for weight in stored)).run(work, Context())
    for weight in stored:
        replace_node(weight.node, add_constant(work, f"{weight.name}_restored", weight.restored, weight.node))
    work.erase_dead()
    work.propagate()
    return work
