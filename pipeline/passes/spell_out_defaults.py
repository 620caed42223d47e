"""Write out arguments that PyTorch leaves implicit and converters insist on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten
from edgewright.pipeline.program import Program

POOLS = frozenset({aten.max_pool1d.default, aten.max_pool2d.default, aten.avg_pool1d.default, aten.avg_pool2d.default})


@dataclass(frozen=True)
class SpellOutDefaults:
    """Given: max_pool2d(x, k), whose stride is k by default. Result: max_pool2d(x, k, k).

    coremltools refuses the short form ("got 2 input(s), expected minimum 3").
    """

    name: ClassVar[str] = "spell-out-defaults"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in program.graph.nodes:
            if node.target in POOLS and (len(node.args) == 2 or not node.args[2]):
                node.args = (node.args[0], node.args[1], node.args[1], *node.args[3:])
                rewrites += 1
        return PassReport(rewrites)
