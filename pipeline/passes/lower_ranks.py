"""Move values with at most five axes: Core ML has no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import aten, insert_call, replace, value_of
from edgewright.pipeline.program import Program

MOST_AXES = 5


@dataclass(frozen=True)
class LowerRanks:
    """Given: permute(reshape(x, S), order), S of six axes or more, read by reshapes. Result: the same with fewer axes.

    Axes of size 1 are left out, and axes that stay neighbours become one: Swin's windows (1, 2, 7, 2, 7, c) need four.
    """

    name: ClassVar[str] = "lower-ranks"
    runs_after: ClassVar[tuple[str, ...]] = ("drop-identities",)

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites, skips = 0, []
        for node in list(program.graph.nodes):
            if node.target not in (aten.permute.default, aten.transpose.int):
                continue
            wide = node.args[0]
            assert isinstance(wide, Node), "a tensor by schema"
            shape = tuple(value_of(wide).shape)
            if len(shape) <= MOST_AXES or not all(isinstance(size, int) for size in shape):
                continue
            sizes, order = merge_axes(shape, _order(node, len(shape)))
            reshaped = all(end.target is aten.reshape.default for end in (wide, *node.users))
            if not reshaped or len(sizes) > MOST_AXES:
                skips.append(Skip(node.name, f"it moves {len(sizes)} axes that cannot be merged"))
                continue
            narrow = insert_call(program, node, aten.reshape.default, wide.args[0], list(sizes), like=wide)
            replace(node, insert_call(program, node, aten.permute.default, narrow, list(order)))
            rewrites += 1
        return PassReport(rewrites, tuple(skips))


def _order(node: Node, axes: int) -> list[int]:
    """Where each axis of the result comes from."""
    if node.target is aten.permute.default:
        return [int(axis) % axes for axis in node.args[1]]  # type: ignore[union-attr, arg-type]
    order = list(range(axes))
    first, second = (int(axis) for axis in node.args[1:3])  # type: ignore[arg-type]
    order[first], order[second] = order[second], order[first]
    return order


def merge_axes(shape: Sequence[int], order: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The least shape and order that move a tensor's values as permuting `shape` by `order` does."""
    groups: list[list[int]] = []
    for axis in order:
        if shape[axis] == 1:
            continue
        last = groups[-1][-1] if groups else None
        between = () if last is None else shape[last + 1 : axis]
        if last is not None and axis > last and all(size == 1 for size in between):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    places = sorted(range(len(groups)), key=lambda place: groups[place][0])
    sizes = []
    for place in places:
        size = 1
        for axis in groups[place]:
            size *= shape[axis]
        sizes.append(size)
    return tuple(sizes), tuple(places.index(place) for place in range(len(groups)))
