"""Give every output of a program a value of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten, insert_call
from edgewright.pipeline.program import Program
from torch.fx import Node


@dataclass(frozen=True)
class SeparateOutputs:
    """Given: return (y, y, x) where x is an input. Result: return (y, reshape(y), reshape(x)), to the same shapes.

    Core ML names a value once: of two names for one value the first is lost, and an input that is returned fails
    ("Main block's input name, 'x', is different from its corresponding var's name").
    """

    name: ClassVar[str] = "separate-outputs"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        output = program.graph.output_node()
        seen: set[Node] = set()
        results: list[Node] = []
        for node in output.args[0]:  # type: ignore[union-attr]
            assert isinstance(node, Node), "a program returns a flat tuple of tensors"
            if node in seen or node.op == "placeholder":
                shape = list(node.meta["val"].shape)
                results.append(insert_call(program, output, aten.reshape.default, node, shape))
            else:
                results.append(node)
            seen.add(node)
        rewrites = sum(1 for old, new in zip(output.args[0], results, strict=True) if old is not new)  # type: ignore[arg-type]
        output.args = (tuple(results),)
        return PassReport(rewrites)
