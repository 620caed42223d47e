"""What a program needs of a runtime's version, beside what the user named as the oldest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgewright.targets.base import Inspection, Level, Refusal

if TYPE_CHECKING:
    from edgewright.pipeline.program import Program

FEW_BITS = "w4"  # a level that has this scheme has weights of few bits


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
    from edgewright.pipeline.passes.stored_integers import BLOCKS

    if level is None or FEW_BITS in level.schemes:
        return []
    node = next((node for node in program.graph.nodes if str(node.target) == BLOCKS), None)
    if node is None:
        return []
    first = next(level for level in levels if FEW_BITS in level.schemes)
    needed = ", ".join(f"{name} {version}" for name, version in first.minimum.items())
    way_out = "name a newer runtime as the oldest, or quantize weights to 8 bits"
    return [
        Refusal(
            target, node.name, "dequantize", f"weights of fewer than 8 bits, or in groups, came with {needed}", way_out
        )
    ]
