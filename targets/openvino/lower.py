"""Program -> OpenVINO IR, through the ONNX form: from the graph itself, folded weights fail in the converter."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from edgewright.pipeline.passes.stored_integers import has_two_bits, narrow_layers, stored_weights
from edgewright.pipeline.program import Program
from edgewright.pipeline.shapes import SHAPES
from edgewright.targets.onnx.blocks import opset_for
from edgewright.targets.onnx.lower import write_onnx
from edgewright.targets.openvino.compact import compact_xml
from edgewright.targets.openvino.halves import halve_scales, hide_halves, restore_halves
from edgewright.targets.openvino.narrow import narrow_weights
from edgewright.targets.openvino.two_bits import state_two_bits, store_two_bits

READ = 21  # the newest opset of ONNX that OpenVINO reads weights of few bits from
FLOAT_ACTIVATIONS = ("runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE")  # read by the runtime; "0": none


def write_ir(program: Program, path: Path, *, whole_masks: bool = False) -> None:
    """Write `path` (.xml) and the .bin beside it, weights as the program has them (no silent float16).

    `whole_masks` gives attention masks their full size, as OpenVINO before 2024.3 wants them.
    """
    import openvino
    from openvino._offline_transformations import apply_moc_transformations

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        write_onnx(program, source, opset=min(opset_for(program, 20), READ), zero_points=False)
        # What convert_model does, without the processes that it starts to report the call to Intel.
        model = openvino.Core().read_model(str(source))
        hidden = hide_halves(model)
        apply_moc_transformations(model, False)
        restore_halves(model, hidden)
        halve_scales(model)
        two_bits = has_two_bits(program)
        if two_bits:
            store_two_bits(model)
        for port, spec in zip(model.inputs, program.inputs, strict=True):
            port.get_tensor().set_names({spec.name})
        for port, spec in zip(model.outputs, program.outputs, strict=True):
            port.get_tensor().set_names({spec.name})  # one behind a DequantizeLinear may have lost its name
        if whole_masks:
            _widen_masks(model)
        if narrow_layers(program):
            narrow_weights(model)
        _keep_order(model)
        _name_stably(model)
        if program.dims:
            _bound(model, program)
        if _wants_float_activations(program):
            model.set_rt_info("0", list(FLOAT_ACTIVATIONS))
        # `compress_to_fp16` would round what the program has in float32, too, and make bfloat16 float16.
        openvino.save_model(model, str(path), compress_to_fp16=False)
    if two_bits:
        state_two_bits(path)
    compact_xml(path, {spec.name for spec in (*program.inputs, *program.outputs)})


def _wants_float_activations(program: Program) -> bool:
    """Whether 8-bit weights are most of those that layers read in float.

    Beside compressed weights, OpenVINO rounds the activations to 8 bits, too: 45 dB. That is little beside weights of
    fewer bits, and faster; beside 8-bit weights it would be most of the error.
    """
    sizes = {False: 0, True: 0}
    for stored in stored_weights(program):
        if stored.is_weight_only:
            sizes[stored.bits == 8] += stored.integers.numel()
    return sizes[True] > sizes[False]


def _bound(model: Any, program: Program) -> None:
    """Give the open dimensions their bounds, and record them with their names."""
    from openvino import Dimension, PartialShape

    dims = {dim.name: Dimension(dim.min, dim.max) for dim in program.dims}
    shapes = (
        PartialShape([dims[size] if isinstance(size, str) else Dimension(size) for size in spec.shape])
        for spec in program.inputs
    )
    model.reshape(dict(zip(model.inputs, shapes, strict=True)))
    model.set_rt_info(program.shapes.text(), [SHAPES])


def _keep_order(model: Any) -> None:
    """Of equal elements, ONNX has the first come first; OpenVINO only where it is told so."""
    for node in model.get_ops():
        if node.get_type_name() == "TopK" and node.get_attributes()["sort"] != "none":
            node.set_attribute("stable", True)


def _widen_masks(model: Any) -> None:
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "ScaledDotProductAttention" or node.get_input_size() < 4:
            continue
        mask, queries, keys = (node.input_value(place).get_partial_shape() for place in (3, 0, 1))
        if all(shape.is_static for shape in (mask, queries, keys)):
            wanted = [*list(mask)[:-2], queries[-2], keys[-2]]
            wide = opset13.broadcast(node.input_value(3), [size.get_length() for size in wanted])
            node.input(3).replace_source_output(wide.output(0))


def _name_stably(model: Any) -> None:
    """OpenVINO numbers nameless nodes through the life of the process ("Constant_2484"); their place is stable."""
    model.set_friendly_name("main")
    for place, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(r"[A-Z][A-Za-z]*_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}.{place}")
