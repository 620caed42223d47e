"""Python's collector of reference cycles, in processes that are ours alone: theirs is a short life and much memory."""

from __future__ import annotations

import atexit
import gc

NEW_OBJECTS = 10_000  # before the youngest are looked at; Python's own 700 are a fifth of the time of PyTorch's imports


def collect_seldom() -> None:
    """Look for cycles less often, and not at all once the process ends: the system takes its memory back faster."""
    gc.set_threshold(NEW_OBJECTS)
    atexit.register(gc.freeze)
