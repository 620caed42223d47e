"""OpenVINO intermediate representation, made from the same ONNX form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgewright.targets.base import Artifact, Capabilities, Inspection, Refusal, Session

if TYPE_CHECKING:
    from edgewright.pipeline.passes.base import Pass
    from edgewright.pipeline.program import Program

XML, WEIGHTS = "model.xml", "model.bin"


class OpenvinoTarget:
    """IR (.xml and .bin) for OpenVINO's runtime, computed in float32 where it is not integer."""

    name: ClassVar[str] = "openvino"
    extra: ClassVar[str] = "openvino"
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "openvino")
    capabilities: ClassVar[Capabilities] = Capabilities(
        schemes=frozenset({"fp32", "fp16", "w8a8"}), minimum={"openvino": "2024.0"}, tolerance_db=80.0
    )

    def legalize(self) -> tuple[Pass, ...]:
        from edgewright.pipeline.passes.look_up_integers import LookUpIntegers
        from edgewright.pipeline.passes.shift_activations import ShiftActivations

        return LookUpIntegers(), ShiftActivations()

    def refusals(self, program: Program) -> tuple[Refusal, ...]:
        from edgewright.targets.onnx import OnnxTarget

        return OnnxTarget().refusals(program)

    def lower(self, program: Program, folder: Path, *, integer_boundary: bool = False) -> Artifact:
        from edgewright.targets.openvino.lower import write_ir

        write_ir(program, folder / XML)
        return self.find(folder)

    def find(self, folder: Path) -> Artifact:
        return Artifact(self.name, folder / XML, (folder / XML, folder / WEIGHTS))

    def inspect(self, artifact: Artifact) -> Inspection:
        from edgewright.targets.openvino.inspect import inspect_ir

        return inspect_ir(artifact.main)

    def open(self, artifact: Artifact, threads: int = 1) -> Session:
        from edgewright.targets.openvino.run import OpenvinoSession

        return OpenvinoSession(artifact.main, threads)
