"""Where the time of a run goes, for targets whose runtime tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgewright.targets.base import Artifact


@dataclass(frozen=True)
class OperationTime:
    """One executed operation: its kind as the runtime calls it, and its time in one run, in ms."""

    name: str
    op: str
    ms: float


@runtime_checkable
class Profiler(Protocol):
    """A target whose runtime times its operations."""

    def profile(
        self, artifact: Artifact, inputs: Mapping[str, np.ndarray[Any, Any]], threads: int = 1
    ) -> tuple[OperationTime, ...]:
        """Every executed operation with its median time over some runs; `inputs` by name, in the model's own dtypes."""
        ...
