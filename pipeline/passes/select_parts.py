"""Take the parts of a tensor one by one, where the graph takes them all as a list."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import aten, insert_call, replace, value_of
from edgewright.pipeline.program import Program

UNBIND = aten.unbind.int
SPLITS = frozenset({aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default})


@dataclass(frozen=True)
class SelectParts:
    """Given: unbind(x, d)[i], or split(x, sizes, d)[i]. Result: select(x, d, i), or slice(x, d, start, end).

    A list of tensors has no encoding, a part that was selected shares its source's: without this, the queries, keys and
    values of a vision transformer (`qkv.unbind(0)`) are rounded twice, and each costs a requantization.
    """

    name: ClassVar[str] = "select-parts"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites, skips = 0, []
        for node in list(program.graph.nodes):
            if node.target is not UNBIND and node.target not in SPLITS:
                continue
            if any(user.target is not operator.getitem for user in node.users):
                skips.append(Skip(node.name, "its parts are read as a list"))
                continue
            source, axis = node.args[0], _axis(node)
            assert isinstance(source, Node), "a tensor by schema"
            starts = None if node.target is UNBIND else _starts(node, value_of(source).shape[axis])
            if node.target is not UNBIND and starts is None:
                skips.append(Skip(node.name, "its sizes are not constant"))
                continue
            for part in list(node.users):
                place = part.args[1]
                assert isinstance(place, int), "an index by schema"
                if starts is None:
                    replace(part, insert_call(program, part, aten.select.int, source, axis, place))
                else:
                    start, end = starts[place], starts[place + 1]
                    replace(part, insert_call(program, part, aten.slice.Tensor, source, axis, start, end))
                rewrites += 1
            program.graph.erase_node(node)
        return PassReport(rewrites, tuple(skips))


def _axis(node: Node) -> int:
    place = 1 if node.target is UNBIND else 2
    return int(node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0))  # type: ignore[arg-type]


def _starts(node: Node, size: Any) -> list[int] | None:
    """Where each part starts, and the end of the last one; None where that is not known."""
    stated: Any = node.args[1]
    if not isinstance(size, int):
        return None
    if isinstance(stated, Sequence):
        sizes = list(stated)
    else:
        step = -(-size // stated) if node.target is aten.chunk.default else stated
        if not isinstance(step, int) or step < 1:
            return None
        sizes = [step] * (-(-size // step))
    if not all(isinstance(part, int) for part in sizes):
        return None
    starts = [0]
    for part in sizes:
        starts.append(min(starts[-1] + part, size))
    return starts
