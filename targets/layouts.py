"""Transposes that serve the memory layout, as far as a file without its program can tell.

Two kinds count: a transpose that moves the channel axis (NCHW to NHWC or back) beside an operation that cares for
where the channels are, and a transpose that a later one takes back. The model itself may have asked for them (a
ConvNeXt permutes around its layer norms); a transpose inside attention moves other axes and does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from edgewright.targets.findings import LayoutChange
from edgewright.targets.islands import BOUNDARIES, FAKE, plain

if TYPE_CHECKING:
    from edgewright.targets.accounting import Step

CHANNEL_MOVES = frozenset({(0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1), (0, 2, 3, 4, 1), (0, 4, 1, 2, 3)})
SPATIAL = ("conv", "pool", "resize", "interpolate", "upsample", "deconvolution", "depthtospace", "spacetodepth")
REORDERS = frozenset({"reorder", "reorderinput", "reorderoutput"})
# What lies between a transpose and its reason without caring for the layout itself.
PASSED_BY = BOUNDARIES | frozenset({
    FAKE, "pad", "padv2", "mirrorpad", "relu", "relu6", "clip", "clamp", "leakyrelu", "prelu", "hardswish", "sigmoid",
    "logistic", "tanh", "gelu", "cast", "convert", "identity", "add", "mul", "multiply", "sub", "subtract", "div",
})  # fmt: skip
DEPTH = 4  # operations looked past, in either direction


def find_layout_changes(
    steps: Sequence[Step], sizes: Mapping[str, int], *, stated: bool = True
) -> tuple[LayoutChange, ...]:
    """The layout changes among `steps`; `sizes` are the bytes of the values, by name."""
    writer = {name: step for step in steps for name in step.writes}
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.reads:
            readers.setdefault(name, []).append(step)
    found = []
    for step in steps:
        if plain(step.op) in REORDERS:
            why = "" if stated else "added by the runtime"
        elif len(step.permutation) > 1:
            why = _why(step, writer, readers)
        else:
            continue
        if why:
            moved = sum(sizes.get(name, 0) for name in (*step.reads, *step.writes))
            found.append(LayoutChange(step.name, step.op, moved, why, stated))
    return tuple(found)


def _why(step: Step, writer: Mapping[str, Step], readers: Mapping[str, list[Step]]) -> str:
    after = list(_beside([reader for name in step.writes for reader in readers.get(name, ())], writer, readers, True))
    before = list(_beside([writer[name] for name in step.reads if name in writer], writer, readers, False))
    for other, word in ((after, "taken back by"), (before, "takes back")):
        for near in other:
            if _cancels(step.permutation, near.permutation):
                return f"{word} {near.name}"
    if step.permutation in CHANNEL_MOVES:
        for near in (*after, *before):
            if any(word in plain(near.op) for word in SPATIAL):
                return f"moves the channels beside {near.name}"
    return ""


def _beside(
    near: Sequence[Step], writer: Mapping[str, Step], readers: Mapping[str, list[Step]], forward: bool, depth: int = 0
) -> Iterator[Step]:
    """Operations next to a value, and those behind what only passes it on."""
    for step in near:
        yield step
        if plain(step.op) in PASSED_BY and depth < DEPTH:
            if forward:
                further = [reader for name in step.writes for reader in readers.get(name, ())]
            else:
                further = [writer[name] for name in step.reads if name in writer]
            yield from _beside(further, writer, readers, forward, depth + 1)


def _cancels(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    if len(first) != len(second) or not first:
        return False
    return tuple(first[axis] for axis in second) == tuple(range(len(first)))
