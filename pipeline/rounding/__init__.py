"""From float weights to integers: grids, and the ways to choose the integer of each weight."""

from __future__ import annotations

from collections.abc import Sized

from edgewright.calibration.batches import require_batches
from edgewright.errors import RecipeError, did_you_mean

NEAREST, WEIGHTED, GPTQ, ADAROUND = WAYS = ("nearest", "weighted", "gptq", "adaround")


def check_rounding(way: str, batches: Sized) -> None:
    """Raise where there is no such way to round, or it needs data and there is none."""
    if way not in WAYS:
        raise RecipeError("no such rounding", got=repr(way), expected=did_you_mean(way, WAYS))
    if way != NEAREST:
        require_batches(batches, f"the rounding {way!r}")
