"""TFLite files, run by LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgewright.targets.base import Artifact, Capabilities, Inspection, Refusal, Session

if TYPE_CHECKING:
    from edgewright.pipeline.passes.base import Pass
    from edgewright.pipeline.program import Program

FILE = "model.tflite"
FLATBUFFER_LIMIT = 2**31


class TfliteTarget:
    """A FlatBuffer whose quantized layers are integer operations, with float outer inputs and outputs."""

    name: ClassVar[str] = "tflite"
    extra: ClassVar[str] = "tflite"
    modules: ClassVar[tuple[str, ...]] = ("litert_torch", "litert_converter", "ai_edge_litert")
    capabilities: ClassVar[Capabilities] = Capabilities(
        schemes=frozenset({"fp32", "fp16", "w8a8"}),
        integer_boundary=True,
        minimum={"tflite": "2.14"},
        tolerance_db=80.0,
    )

    def legalize(self) -> tuple[Pass, ...]:
        from edgewright.pipeline.passes.look_up_integers import LookUpIntegers
        from edgewright.pipeline.passes.unfold_weights import UnfoldWeights

        return LookUpIntegers(), UnfoldWeights()

    def refusals(self, program: Program) -> tuple[Refusal, ...]:
        total = sum(program.weight_bytes().values())
        if total < FLATBUFFER_LIMIT:
            return ()
        way_out = "compress the weights further, or export the model in parts"
        return (Refusal(self.name, "", "", f"{total} bytes of weights exceed a FlatBuffer's 2 GiB", way_out),)

    def lower(self, program: Program, folder: Path, *, integer_boundary: bool = False) -> Artifact:
        from edgewright.targets.tflite.lower import write_tflite

        write_tflite(program, folder / FILE, integer_boundary=integer_boundary)
        return self.find(folder)

    def find(self, folder: Path) -> Artifact:
        return Artifact(self.name, folder / FILE, (folder / FILE,))

    def inspect(self, artifact: Artifact) -> Inspection:
        from edgewright.targets.tflite.inspect import inspect_tflite

        return inspect_tflite(artifact.main)

    def open(self, artifact: Artifact, threads: int = 1) -> Session:
        from edgewright.targets.tflite.run import TfliteSession

        return TfliteSession(artifact.main, threads)
