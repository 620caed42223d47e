"""What a program needs of a runtime's version, beside what the user named as the oldest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgewright.targets.base import Inspection, Level, Refusal

if TYPE_CHECKING:
    from edgewright.pipeline.program import Program

FEW_BITS, TWO_BITS = "w4", "w2g32"  # a level that has one of these schemes has such weights


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
    """A refusal where the named level has no weights of the few bits that the program has."""
    from edgewright.pipeline.passes.stored_integers import has_few_bits, has_two_bits, stored_weights

    if level is None or not has_few_bits(program):
        return []
    two = has_two_bits(program) and TWO_BITS in levels[-1].schemes
    scheme, what = (TWO_BITS, "of 2 bits") if two else (FEW_BITS, "of fewer than 8 bits, or in groups,")
    if scheme in level.schemes:
        return []
    first = next(level for level in levels if scheme in level.schemes)
    needed = ", ".join(f"{name} {version}" for name, version in first.minimum.items())
    node = min(stored_weights(program), key=lambda stored: stored.bits).node
    way_out = "name a newer runtime as the oldest, or quantize weights to 8 bits"
    return [Refusal(target, node.name, "dequantize", f"weights {what} came with {needed}", way_out)]
