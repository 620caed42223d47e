"""Join encoded values and others by addition, where a converter would round the others as the encoded ones are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten, insert_call, replace, value_of
from edgewright.pipeline.program import Program


@dataclass(frozen=True)
class AddParts:
    """Given: cat([dequantize(q), y], d) whose result has no encoding.
    Result: pad(dequantize(q)) + pad(y), with zeros where the other parts stand: the same numbers.

    LiteRT's converter gives a concatenation the encoding of one of its inputs, and rounds and clips all others to it:
    an embedding table in the range of the picture beside it.
    """

    name: ClassVar[str] = "add-parts"
    runs_after: ClassVar[tuple[str, ...]] = ("quantize-static",)

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in program.graph.find_nodes(op="call_function", target=aten.cat.default):
            parts = list(node.args[0])
            encoded = [_is_encoded(part) for part in parts]
            if not any(encoded) or all(encoded) or any("quantize" in str(user.target) for user in node.users):
                continue
            replace(node, _sum_of_padded(program, node, parts))
            rewrites += 1
        return PassReport(rewrites)


def _is_encoded(part: Node) -> bool:
    return "dequantize_per_tensor" in str(part.target)


def _sum_of_padded(program: Program, node: Node, parts: list[Node]) -> Node:
    dims = value_of(node).dim()
    axis = int(node.args[1]) % dims if len(node.args) > 1 else 0  # type: ignore[arg-type]
    total, before, padded = value_of(node).shape[axis], 0, []
    for part in parts:
        width = value_of(part).shape[axis]
        pads = [0] * (2 * (dims - 1 - axis)) + [before, total - before - width]  # the last axis comes first
        padded.append(insert_call(program, node, aten.constant_pad_nd.default, part, pads, like=node))
        before += width
    return reduce(lambda one, other: insert_call(program, node, aten.add.Tensor, one, other, like=node), padded)
