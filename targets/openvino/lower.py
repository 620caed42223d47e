"""Program -> OpenVINO IR, through the ONNX form: from the graph itself, folded weights fail in the converter."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgewright.pipeline.program import Program
from edgewright.targets.onnx.lower import write_onnx


def write_ir(program: Program, path: Path) -> None:
    """Write `path` (.xml) and the .bin beside it, weights as they are (no silent float16)."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        write_onnx(program, source)
        model = openvino.convert_model(str(source))
        for port, spec in zip(model.inputs, program.inputs, strict=True):
            port.get_tensor().set_names({spec.name})
        for port, spec in zip(model.outputs, program.outputs, strict=True):
            port.get_tensor().set_names({spec.name})  # one behind a DequantizeLinear may have lost its name
        model.set_friendly_name("main")
        openvino.save_model(model, str(path), compress_to_fp16=False)
