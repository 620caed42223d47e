"""ONNX, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgewright.targets.base import Artifact, Capabilities, Inspection, Refusal, Session

if TYPE_CHECKING:
    from edgewright.pipeline.passes.base import Pass
    from edgewright.pipeline.program import Program

FILE = "model.onnx"
PROTOBUF_LIMIT = 2**31


class OnnxTarget:
    """ONNX files with explicit quantization (QuantizeLinear/DequantizeLinear), unsigned 8-bit activations."""

    name: ClassVar[str] = "onnx"
    extra: ClassVar[str] = "onnx"
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    capabilities: ClassVar[Capabilities] = Capabilities(
        schemes=frozenset({"fp32", "fp16", "w8a8"}), minimum={"onnxruntime": "1.17"}, tolerance_db=80.0
    )

    def legalize(self) -> tuple[Pass, ...]:
        from edgewright.pipeline.passes.look_up_integers import LookUpIntegers
        from edgewright.pipeline.passes.shift_activations import ShiftActivations

        return LookUpIntegers(), ShiftActivations()

    def refusals(self, program: Program) -> tuple[Refusal, ...]:
        total = sum(program.weight_bytes().values())
        if total < PROTOBUF_LIMIT:
            return ()
        way_out = "compress the weights further, or export the model in parts"
        return (Refusal(self.name, "", "", f"{total} bytes of weights exceed protobuf's 2 GiB", way_out),)

    def lower(self, program: Program, folder: Path, *, integer_boundary: bool = False) -> Artifact:
        from edgewright.targets.onnx.lower import write_onnx

        write_onnx(program, folder / FILE)
        return self.find(folder)

    def find(self, folder: Path) -> Artifact:
        return Artifact(self.name, folder / FILE, (folder / FILE,))

    def inspect(self, artifact: Artifact) -> Inspection:
        from edgewright.targets.onnx.inspect import inspect_onnx

        return inspect_onnx(artifact.main)

    def open(self, artifact: Artifact, threads: int = 1) -> Session:
        from edgewright.targets.onnx.run import OnnxSession

        return OnnxSession(artifact.main, threads)
