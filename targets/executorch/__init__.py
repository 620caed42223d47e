"""ExecuTorch programs with XNNPACK's delegate, run by ExecuTorch's own Python bindings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgewright.targets.base import Artifact, Capabilities, Inspection, Refusal, Session

if TYPE_CHECKING:
    from edgewright.pipeline.passes.base import Pass
    from edgewright.pipeline.program import Program

FILE = "model.pte"


class ExecutorchTarget:
    """A .pte file: layers that XNNPACK has run in its delegate, the rest in ExecuTorch's portable kernels."""

    name: ClassVar[str] = "executorch"
    extra: ClassVar[str] = "executorch"
    suffix: ClassVar[str] = ".pte"
    modules: ClassVar[tuple[str, ...]] = ("executorch",)
    capabilities: ClassVar[Capabilities] = Capabilities(
        schemes=frozenset({"fp32", "w8a8", "w8a8-dynamic"}),
        minimum={"executorch": "1.4"},
        tolerance_db=80.0,
        integer_products=False,  # XNNPACK's delegate multiplies two activations in float
    )

    def legalize(self) -> tuple[Pass, ...]:
        from edgewright.pipeline.passes.decompose_operators import DecomposeOperators
        from edgewright.pipeline.passes.fold_constants import FoldConstants
        from edgewright.pipeline.passes.gather_rows import GatherRows
        from edgewright.pipeline.passes.look_up_integers import LookUpIntegers
        from edgewright.pipeline.passes.spell_out_defaults import SpellOutDefaults
        from edgewright.pipeline.passes.spell_out_gelu import SpellOutGelu
        from edgewright.targets.executorch.move_in_one_encoding import MoveInOneEncoding
        from edgewright.targets.executorch.rules import RULES

        return (
            DecomposeOperators(RULES),
            FoldConstants(),
            LookUpIntegers(),
            GatherRows(),
            SpellOutDefaults(),
            SpellOutGelu(),
            MoveInOneEncoding(),
        )

    def refusals(self, program: Program) -> tuple[Refusal, ...]:
        from edgewright.targets.executorch.refusals import TABLE, half_weights
        from edgewright.targets.unsupported import refuse_nodes

        return *half_weights(program), *refuse_nodes(program, self.name, TABLE)

    def preload(self) -> None:
        import executorch.backends.xnnpack.partition.xnnpack_partitioner
        import executorch.exir  # noqa: F401

    def lower(self, program: Program, folder: Path, *, integer_boundary: bool = False) -> Artifact:
        from edgewright.targets.executorch.lower import write_pte

        write_pte(program, folder / FILE)
        return self.find(folder)

    def find(self, folder: Path) -> Artifact:
        return Artifact(self.name, folder / FILE, (folder / FILE,))

    def inspect(self, artifact: Artifact) -> Inspection:
        from edgewright.targets.executorch.inspect import inspect_pte

        return inspect_pte(artifact.main)

    def open(self, artifact: Artifact, threads: int = 1) -> Session:
        from edgewright.targets.executorch.run import ExecutorchSession

        return ExecutorchSession(artifact.main, threads)
