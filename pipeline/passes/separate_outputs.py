"""Give every output of a program a value of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten, insert_call, value_of
from edgewright.pipeline.program import Program


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
        returned = output.args[0]
        assert isinstance(returned, tuple | list), "a program returns a flat tuple of tensors"
        results: list[Node] = []
        rewrites = 0
        for node in returned:
            assert isinstance(node, Node), "a program returns a flat tuple of tensors"
            if node in results or node.op == "placeholder":
                shape = list(value_of(node).shape)
                results.append(insert_call(program, output, aten.reshape.default, node, shape))
                rewrites += 1
            else:
                results.append(node)
        output.args = (tuple(results),)
        return PassReport(rewrites)
