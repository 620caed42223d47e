"""A limit of quality that a pass holds to: how far it may go, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np

from edgewright.calibration.batches import require_batches
from edgewright.errors import RecipeError
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.program import Program

SAMPLES = 16  # that the outputs are compared on


@dataclass(frozen=True)
class QualityLimit:
    """How much worse than `reference` a program may be.

    Args:
        max_drop: of the user's metric, against that of the reference; inf: no limit.
        least_db: SQNR of the least of the outputs over the calibration data, in dB; -inf: no limit.
    """

    reference: Program
    context: Context
    max_drop: float = inf
    least_db: float = -inf

    def __post_init__(self) -> None:
        if self.max_drop < inf and self.context.metric is None:
            raise RecipeError(
                "a limit of the drop needs a metric",
                got=f"max_drop = {self.max_drop}",
                do="name one under [quality], or pass metric=; or set least_db, which needs none",
            )
        if self.least_db > -inf:
            require_batches(self.context.batches, "a limit of the SQNR")

    @property
    def is_set(self) -> bool:
        return self.max_drop < inf or self.least_db > -inf

    def miss(self, candidate: Program) -> str:
        """Empty where a program keeps the limits; else which it misses, and by how much."""
        if self.least_db > -inf and (reached := least_sqnr_db(self.reference, candidate, self.context)) < self.least_db:
            return f"{reached:.1f} dB, limit {self.least_db:g} dB"
        if self.max_drop < inf and (drop := self.metric - metric_of(candidate, self.context)) > self.max_drop:
            return f"a drop of {drop:.4g}, limit {self.max_drop:g}"
        return ""

    @cached_property
    def metric(self) -> float:
        """Of the reference."""
        return metric_of(self.reference, self.context)


def least_sqnr_db(reference: Program, candidate: Program, context: Context) -> float:
    """Of the floating-point outputs, over the first calibration batches."""
    batches = context.batches[:SAMPLES]
    exact, found = ([program.run(batch) for batch in batches] for program in (reference, candidate))
    names = [name for name, value in exact[0].items() if value.is_floating_point()]
    stacked = (
        {name: np.concatenate([run[name].numpy().ravel() for run in runs]) for name in names} for runs in (exact, found)
    )
    one, other = stacked
    return min((sqnr_db(one[name], other[name]) for name in names), default=inf)


def metric_of(program: Program, context: Context) -> float:
    """The user's, which is higher where it is better."""
    assert context.metric is not None, "checked before"
    return context.metric(program)


def farthest(count: int, miss: Callable[[int], str]) -> tuple[int, str]:
    """How far of `count` steps one can go, each of which is at most as good as the one before it.

    Returns:
        The last step that misses nothing, -1 where none does; and what the next one misses (empty behind the last).
    """
    reason = miss(count - 1) if count else ""
    if not reason:
        return count - 1, ""
    good, bad = -1, count - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        found = miss(middle)
        if found:
            bad, reason = middle, found
        else:
            good = middle
    return good, reason
