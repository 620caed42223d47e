"""What a program needs of a runtime's version, beside what the user named as the oldest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgewright.targets.base import Inspection, Level, Refusal

if TYPE_CHECKING:
    from edgewright.pipeline.program import Program

FEW_BITS, NARROW = "w4", "w4a8"  # a level that has the scheme has such weights in float layers, in integer layers


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
    """A refusal where the named level has no weights of few bits and the program does."""
    from edgewright.pipeline.passes.stored_integers import BLOCKS, narrow_layers

    if level is None:
        return []
    blocks = [node for node in program.graph.nodes if str(node.target) == BLOCKS]
    found = (
        (FEW_BITS, blocks, "weights of fewer than 8 bits, or in groups,"),
        (NARROW, narrow_layers(program), "weights of 4 bits in integer layers"),
    )
    way_out = "name a newer runtime as the oldest, or quantize weights to 8 bits"
    refusals = []
    for scheme, nodes, what in found:
        if nodes and scheme not in level.schemes:
            first = next(level for level in levels if scheme in level.schemes)
            needed = ", ".join(f"{name} {version}" for name, version in first.minimum.items())
            refusals.append(Refusal(target, nodes[0].name, "dequantize", f"{what} came with {needed}", way_out))
    return refusals
