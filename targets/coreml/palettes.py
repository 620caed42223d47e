"""Which palettes Core ML has a form of, and since when.

Source: coremltools 9, mil/ops/defs/iOS16/constexpr_ops.py and iOS18/compression.py, constexpr_lut_to_dense.
"""

from __future__ import annotations

from edgewright.pipeline.passes.stored_palettes import StoredPalette, stored_palettes
from edgewright.pipeline.program import Program
from edgewright.targets.base import Level, Refusal

SPEC = 9  # iOS 18
FIRST_BITS = (1, 2, 4, 6, 8)
BITS = (1, 2, 3, 4, 6, 8)


def newer_palettes(program: Program) -> bool:
    """Whether a palette needs the form of iOS 18."""
    return any(_is_newer(stored) for stored in stored_palettes(program))


def refuse_palettes(program: Program, level: Level | None) -> list[Refusal]:
    """Palettes without a form in Core ML, or none yet at the level that the user named."""
    found = []
    for stored in stored_palettes(program):
        if stored.bits not in BITS:
            nearest = min(bits for bits in BITS if bits > stored.bits)
            reason = f"it has no palettes of {stored.bits} bits"
            found.append(_refusal(stored, reason, f"p{nearest} is the nearest that it has"))
        elif level is not None and level.format["spec"] < SPEC and _is_newer(stored):
            reason = "palettes of 3 bits, for groups of channels or of vectors came with iOS 18, macOS 15"
            way_out = "name a newer runtime as the oldest, or use one table a weight with " + ", ".join(
                f"p{bits}" for bits in FIRST_BITS
            )
            found.append(_refusal(stored, reason, way_out))
    return found


def _refusal(stored: StoredPalette, reason: str, way_out: str) -> Refusal:
    return Refusal("coreml", stored.node.name, "look_up", reason, way_out)


def _is_newer(stored: StoredPalette) -> bool:
    return stored.bits not in FIRST_BITS or not stored.is_plain
