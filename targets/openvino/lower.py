"""Program -> OpenVINO IR, through the ONNX form: from the graph itself, folded weights fail in the converter."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from edgewright.pipeline.program import Program
from edgewright.targets.onnx.lower import write_onnx
from edgewright.targets.openvino.compact import compact_xml


def write_ir(program: Program, path: Path) -> None:
    """Write `path` (.xml) and the .bin beside it, weights as the program has them (no silent float16)."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        write_onnx(program, source, zero_points=False)
        model = openvino.convert_model(str(source))
        for port, spec in zip(model.inputs, program.inputs, strict=True):
            port.get_tensor().set_names({spec.name})
        for port, spec in zip(model.outputs, program.outputs, strict=True):
            port.get_tensor().set_names({spec.name})  # one behind a DequantizeLinear may have lost its name
        _name_stably(model)
        openvino.save_model(model, str(path), compress_to_fp16="float16" in program.weight_bytes())
    compact_xml(path, {spec.name for spec in (*program.inputs, *program.outputs)})


def _name_stably(model: Any) -> None:
    """OpenVINO numbers nameless nodes through the life of the process ("Constant_2484"); their place is stable."""
    model.set_friendly_name("main")
    for place, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(r"[A-Z][A-Za-z]*_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}.{place}")
