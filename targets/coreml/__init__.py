"""Core ML packages: run by Core ML on macOS, by our reference interpreter elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgewright.targets.base import Artifact, Capabilities, Inspection, Refusal, Session

if TYPE_CHECKING:
    from edgewright.pipeline.passes.base import Pass
    from edgewright.pipeline.program import Program

PACKAGE = "model.mlpackage"


class CoremlTarget:
    """An ML program for iOS 17, the first that has 8-bit activations."""

    name: ClassVar[str] = "coreml"
    extra: ClassVar[str] = "coreml"
    modules: ClassVar[tuple[str, ...]] = ("coremltools",)
    capabilities: ClassVar[Capabilities] = Capabilities(
        schemes=frozenset({"fp32", "fp16", "w8a8"}),
        minimum={"iOS": "17", "macOS": "14"},
        tolerance_db=80.0,
        half_tolerance_db=40.0,
    )

    def legalize(self) -> tuple[Pass, ...]:
        from edgewright.pipeline.passes.separate_outputs import SeparateOutputs
        from edgewright.pipeline.passes.spell_out_defaults import SpellOutDefaults

        return SpellOutDefaults(), SeparateOutputs()

    def refusals(self, program: Program) -> tuple[Refusal, ...]:
        """Nothing here: `lower` refuses what coremltools has no converter for, once the program is in its form."""
        return ()

    def lower(self, program: Program, folder: Path, *, integer_boundary: bool = False) -> Artifact:
        from edgewright.targets.coreml.lower import write_mlpackage

        write_mlpackage(program, folder / PACKAGE)
        return self.find(folder)

    def find(self, folder: Path) -> Artifact:
        files = tuple(sorted(path for path in (folder / PACKAGE).rglob("*") if path.is_file()))
        return Artifact(self.name, folder / PACKAGE, files)

    def inspect(self, artifact: Artifact) -> Inspection:
        from edgewright.targets.coreml.inspect import inspect_mlpackage

        return inspect_mlpackage(artifact.main)

    def open(self, artifact: Artifact, threads: int = 1) -> Session:
        from edgewright.targets.coreml.run import open_session

        return open_session(artifact.main, threads)
