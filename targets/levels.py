"""What a program needs of a runtime's version, beside what the user named as the oldest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgewright.targets.base import Inspection, Level, Refusal

if TYPE_CHECKING:
    from edgewright.pipeline.program import Program

# A level that has one of these schemes has such weights: in float layers, of 2 bits, in integer layers.
FEW_BITS, TWO_BITS, NARROW = "w4", "w2g32", "w4a8"


def with_minimum(found: Inspection, levels: tuple[Level, ...], part: str, key: str) -> Inspection:
    """The inspection with the oldest runtimes that read such a file.

    Args:
        part: of `Inspection.versions`; key: the same in a level's format.
    """
    stated = found.versions.get(part)
    fits = (level for level in levels if stated and level.format[key] >= int(stated))
    return replace(found, minimum=next(fits, levels[-1]).minimum)


def too_old_for_few_bits(
    program: Program, target: str, level: Level | None, levels: tuple[Level, ...]
) -> list[Refusal]:
    """A refusal for each kind of weights of few bits that the program has and the named level has not."""
    from edgewright.pipeline.passes.stored_integers import BLOCKS, narrow_layers, stored_weights

    if level is None:
        return []
    blocks = [node for node in program.graph.nodes if str(node.target) == BLOCKS]
    two = [stored.node for stored in stored_weights(program) if stored.bits == 2]
    found = (
        (FEW_BITS, blocks, "weights of fewer than 8 bits, or in groups,"),
        (TWO_BITS, two, "weights of 2 bits"),
        (NARROW, narrow_layers(program), "weights of 4 bits in integer layers"),
    )
    way_out = "name a newer runtime as the oldest, or quantize weights to 8 bits"
    refusals = []
    for scheme, nodes, what in found:
        able = [other for other in levels if scheme in other.schemes]
        if nodes and able and scheme not in level.schemes:
            needed = ", ".join(f"{name} {version}" for name, version in able[0].minimum.items())
            refusals.append(Refusal(target, nodes[0].name, "dequantize", f"{what} came with {needed}", way_out))
    return refusals
