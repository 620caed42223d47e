"""Core ML packages: run by Core ML on macOS, by our reference interpreter elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgewright.targets.base import Artifact, Capabilities, Inspection, Level, Refusal, Session

if TYPE_CHECKING:
    from edgewright.pipeline.passes.base import Pass
    from edgewright.pipeline.program import Program

PACKAGE = "model.mlpackage"
FIRST = frozenset({"fp32", "fp16", "w8"})
BLOCKS = frozenset({"w4", "w4g32", "w4g64", "w4g128"})
TABLES = frozenset({"p1", "p2", "p4", "p6", "p8"})
LEVELS = (
    Level({"iOS": "16", "macOS": "13"}, {"spec": 7}, FIRST | TABLES),
    Level({"iOS": "17", "macOS": "14"}, {"spec": 8}, FIRST | TABLES | {"w8a8"}),
    Level({"iOS": "18", "macOS": "15"}, {"spec": 9}, FIRST | TABLES | {"w8a8", "w4a8", "p3"} | BLOCKS),
)
DEFAULT = LEVELS[1]
CAPABILITIES = Capabilities(
    schemes=LEVELS[-1].schemes,
    minimum=DEFAULT.minimum,
    tolerance_db=80.0,
    half_tolerance_db=40.0,
    levels=LEVELS,
    signed_scales=True,
    open_sizes="range",
)


class CoremlTarget:
    """An ML program; for iOS 17, the first that has 8-bit activations, unless told otherwise."""

    name: ClassVar[str] = "coreml"
    extra: ClassVar[str] = "coreml"
    suffix: ClassVar[str] = ".mlpackage"
    modules: ClassVar[tuple[str, ...]] = ("coremltools",)

    def __init__(self, level: Level | None = None) -> None:
        self.named, self.level = level, level or DEFAULT
        self.capabilities = CAPABILITIES.at(level)

    def legalize(self) -> tuple[Pass, ...]:
        from edgewright.pipeline.passes.block_weights import BlockWeights
        from edgewright.pipeline.passes.decompose_operators import DecomposeOperators
        from edgewright.pipeline.passes.fill_branches import FillBranches
        from edgewright.pipeline.passes.fold_constants import FoldConstants
        from edgewright.pipeline.passes.gather_booleans import GatherBooleans
        from edgewright.pipeline.passes.separate_outputs import SeparateOutputs
        from edgewright.pipeline.passes.spell_out_defaults import SpellOutDefaults
        from edgewright.pipeline.passes.spell_out_gelu import SpellOutGelu
        from edgewright.pipeline.passes.unroll_recurrence import UnrollRecurrence
        from edgewright.targets.coreml.rules import RULES

        return (
            UnrollRecurrence(),
            DecomposeOperators(RULES),
            FoldConstants(),
            GatherBooleans(),
            FillBranches(),
            SpellOutGelu(),
            SpellOutDefaults(),
            SeparateOutputs(),
            BlockWeights(),
        )

    def refusals(self, program: Program) -> tuple[Refusal, ...]:
        """`lower` also refuses what coremltools has no converter for, once the program is in its form."""
        from edgewright.targets.coreml.palettes import refuse_palettes
        from edgewright.targets.levels import too_old_for_few_bits
        from edgewright.targets.unsupported import COREML, refuse_nodes

        old = too_old_for_few_bits(program, self.name, self.named, LEVELS)
        return (*refuse_nodes(program, self.name, COREML), *old, *refuse_palettes(program, self.named))

    def preload(self) -> None:
        from edgewright.targets.coreml.imports import import_coremltools

        import_coremltools()

    def lower(self, program: Program, folder: Path, *, integer_boundary: bool = False) -> Artifact:
        from edgewright.pipeline.passes.stored_integers import has_few_bits
        from edgewright.targets.coreml.lower import write_mlpackage
        from edgewright.targets.coreml.palettes import SPEC, newer_palettes

        newest = has_few_bits(program) or newer_palettes(program)
        write_mlpackage(program, folder / PACKAGE, spec=SPEC if newest else self.level.format["spec"])
        return self.find(folder)

    def find(self, folder: Path) -> Artifact:
        files = tuple(sorted(path for path in (folder / PACKAGE).rglob("*") if path.is_file()))
        return Artifact(self.name, folder / PACKAGE, files)

    def inspect(self, artifact: Artifact) -> Inspection:
        from edgewright.targets.coreml.fix_sizes import at_largest
        from edgewright.targets.coreml.inspect import inspect_mlpackage
        from edgewright.targets.levels import with_minimum

        with at_largest(artifact.main) as main:
            return with_minimum(inspect_mlpackage(main), LEVELS, "specification", "spec")

    def open(self, artifact: Artifact, threads: int = 1) -> Session:
        from edgewright.targets.coreml.run import open_session

        return open_session(artifact.main, threads)
