"""TFLite files, run by LiteRT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgewright.targets.base import Artifact, Capabilities, Inspection, Level, PinnedRuntime, Refusal, Session
from edgewright.targets.tflite.versions import RELEASES

if TYPE_CHECKING:
    from edgewright.pipeline.passes.base import Pass
    from edgewright.pipeline.program import Program

FILE = "model.tflite"
FLATBUFFER_LIMIT = 2**31
SCHEMES = frozenset({"fp32", "fp16", "w8a8", "w4a8", "w8", "w4", "w4g32", "w4g64", "w4g128"})
RUN = Path(__file__).with_name("run.py")
ROUNDING = frozenset({"w8a8-dynamic"})  # rows, before weights with a scale a channel: not in the oldest release
LEVELS = tuple(
    Level({name: version}, {"schema": 3}, SCHEMES | ROUNDING if place else SCHEMES)
    for place, (name, version, _) in enumerate(RELEASES)
)
CAPABILITIES = Capabilities(
    schemes=LEVELS[-1].schemes,
    integer_boundary=True,
    dynamic_convolutions=True,
    minimum=LEVELS[0].minimum,
    tolerance_db=80.0,
    runtimes=(
        PinnedRuntime("tflite-runtime", "tflite_runtime.interpreter", RUN, "3", counts_as="tflite"),
        PinnedRuntime("ai-edge-litert", "ai_edge_litert.interpreter", RUN, "1.1", counts_as="ai-edge-litert"),
    ),
    levels=LEVELS,
    open_sizes="listed",
)


class TfliteTarget:
    """A FlatBuffer whose quantized layers are integer operations, with float outer inputs and outputs."""

    name: ClassVar[str] = "tflite"
    extra: ClassVar[str] = "tflite"
    suffix: ClassVar[str] = ".tflite"
    modules: ClassVar[tuple[str, ...]] = ("litert_torch", "litert_converter", "ai_edge_litert")

    def __init__(self, level: Level | None = None) -> None:
        self.level = level
        self.capabilities = CAPABILITIES.at(level)

    def legalize(self) -> tuple[Pass, ...]:
        from edgewright.pipeline.passes.add_parts import AddParts
        from edgewright.pipeline.passes.decompose_operators import DecomposeOperators
        from edgewright.pipeline.passes.fold_constants import FoldConstants
        from edgewright.pipeline.passes.gather_booleans import GatherBooleans
        from edgewright.pipeline.passes.gather_rows import GatherRows
        from edgewright.pipeline.passes.keep_weights import KeepWeights
        from edgewright.pipeline.passes.look_up_integers import LookUpIntegers
        from edgewright.pipeline.passes.unfold_weights import UnfoldWeights
        from edgewright.targets.tflite.rules import RULES

        return (
            DecomposeOperators(RULES),
            FoldConstants(),
            LookUpIntegers(),
            GatherBooleans(),
            GatherRows(),
            KeepWeights(),
            AddParts(),
            UnfoldWeights(),
        )

    def refusals(self, program: Program) -> tuple[Refusal, ...]:
        from edgewright.targets.tflite.pack import wide_blocks
        from edgewright.targets.unsupported import TFLITE, refuse_nodes

        total = sum(program.weight_bytes().values())
        if total < FLATBUFFER_LIMIT:
            return (*refuse_nodes(program, self.name, TFLITE), *wide_blocks(program))
        way_out = "compress the weights further, or export the model in parts"
        return (Refusal(self.name, "", "", f"{total} bytes of weights exceed a FlatBuffer's 2 GiB", way_out),)

    def preload(self) -> None:
        import litert_torch  # noqa: F401

    def lower(self, program: Program, folder: Path, *, integer_boundary: bool = False) -> Artifact:
        from edgewright.pipeline.lowering import at_listed_sizes
        from edgewright.targets.tflite.lower import write_tflite
        from edgewright.targets.tflite.versions import refuse_newer

        programs = at_listed_sizes(program, self) if program.dims else {"serving_default": program}
        write_tflite(programs, folder / FILE, shapes=program.shapes, integer_boundary=integer_boundary)
        if self.level is not None:
            refuse_newer((folder / FILE).read_bytes(), self.level.minimum)
        return self.find(folder)

    def find(self, folder: Path) -> Artifact:
        return Artifact(self.name, folder / FILE, (folder / FILE,))

    def inspect(self, artifact: Artifact) -> Inspection:
        from edgewright.targets.tflite.inspect import inspect_tflite
        from edgewright.targets.tflite.versions import needed_minimum

        return replace(inspect_tflite(artifact.main), minimum=needed_minimum(artifact.main.read_bytes()))

    def open(self, artifact: Artifact, threads: int = 1) -> Session:
        from edgewright.pipeline.shapes import SHAPES
        from edgewright.targets.sized import with_sizes
        from edgewright.targets.tflite.boundary import recorded
        from edgewright.targets.tflite.run import TfliteSession

        return with_sizes(TfliteSession(artifact.main, threads), recorded(artifact.main, SHAPES))
