"""Leave broadcasting to the operation that reads the value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten, value_of
from edgewright.pipeline.program import Program

BROADCASTING = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor})


@dataclass(frozen=True)
class DropExpansions:
    """Given: mul(x, expand(y)), to the shape of x. Result: mul(x, y).

    The expanded copy costs memory, and LiteRT's converter loses its layout ("operands don't have broadcast-compatible
    shapes").
    """

    name: ClassVar[str] = "drop-expansions"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in list(program.graph.nodes):
            if node.target not in BROADCASTING:
                continue
            for wide, other in ((node.args[0], node.args[1]), (node.args[1], node.args[0])):
                if not isinstance(wide, Node) or not isinstance(other, Node) or wide.target is not aten.expand.default:
                    continue
                if value_of(other).shape == value_of(node).shape and other is not wide:
                    node.replace_input_with(wide, wide.args[0])
                    rewrites += 1
                    break
        return PassReport(rewrites)
