"""Observers: how the range of an encoding follows from the values that calibration shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from edgewright.calibration.extremes import Averages, Extremes, Statistic
from edgewright.calibration.histogram import Histogram, Row
from edgewright.calibration.ranges import Levels, Range, entropy_range, mse_range, percentile_range
from edgewright.errors import RecipeError, did_you_mean

PERCENT = 99.99
BEST = "best"  # no observer: whichever of these errs less
CANDIDATES = ("minmax", "mse")
INT8 = Levels()


class Observer(ABC):
    """Takes values in as they stream by, and says at any time which range it would encode.

    Args:
        levels: the encoding that the range is for.
        axis: the channels' axis; None: one range for the whole tensor.
        statistic: what is known of the values already, of the kind that the observer rests on.
    """

    kind: ClassVar[type[Statistic]]

    def __init__(
        self,
        levels: Levels = INT8,
        axis: int | None = None,
        statistic: Statistic | None = None,
    ) -> None:
        self.levels = levels
        self.statistic = self.kind(axis) if statistic is None else statistic

    def update(self, values: Tensor) -> None:
        """Take in a finite tensor with at least one element."""
        self.statistic.update(values)

    @abstractmethod
    def range(self) -> tuple[Tensor, Tensor]:
        """(low, high), float32, shape () or (channels,), low <= 0 <= high; +inf and -inf before the first update."""


class MinMax(Observer):
    """All of it: low = min(x, 0), high = max(x, 0). Source: Krishnamoorthi 2018, arXiv:1806.08342, section 2."""

    kind = Extremes
    statistic: Extremes

    def range(self) -> tuple[Tensor, Tensor]:
        return _holding_zero(self.statistic.low, self.statistic.high)


class MovingAverage(Observer):
    """Moving averages of each batch's extremes. Source: Jacob 2018, arXiv:1712.05877, section 3.1."""

    kind = Averages
    statistic: Averages

    def range(self) -> tuple[Tensor, Tensor]:
        if self.statistic.low is None or self.statistic.high is None:
            return _nothing()
        return _holding_zero(self.statistic.low, self.statistic.high)


class _OverHistogram(Observer):
    kind = Histogram
    statistic: Histogram

    def range(self) -> tuple[Tensor, Tensor]:
        rows = self.statistic.rows()
        if not rows:
            return _nothing()
        found = [(row.low, row.high) if row.low == row.high else self._of(row) for row in rows]
        low, high = torch.tensor(found).unbind(1)
        shape = self.statistic.extremes.low.shape
        return low.clamp_max(0.0).reshape(shape), high.clamp_min(0.0).reshape(shape)

    @abstractmethod
    def _of(self, row: Row) -> Range:
        """The range of one histogram of values that are not all the same."""


class Percentile(_OverHistogram):
    """What `percent` of the values stay within on each side. Source: Wu 2020, arXiv:2004.09602, section 3.2."""

    def __init__(
        self,
        levels: Levels = INT8,
        axis: int | None = None,
        statistic: Statistic | None = None,
        percent: float = PERCENT,
    ) -> None:
        super().__init__(levels, axis, statistic)
        self.percent = percent

    def _of(self, row: Row) -> Range:
        return percentile_range(row, self.levels, self.percent)


class Mse(_OverHistogram):
    """The least mean squared error. Source: Nagel 2021, arXiv:2106.08295, section 3.1."""

    def _of(self, row: Row) -> Range:
        return mse_range(row, self.levels)


class Entropy(_OverHistogram):
    """The least KL divergence. Source: Migacz 2017, "8-bit Inference with TensorRT"."""

    def _of(self, row: Row) -> Range:
        return entropy_range(row, self.levels)


OBSERVERS: dict[str, type[Observer]] = {
    "minmax": MinMax,
    "moving-average": MovingAverage,
    "percentile": Percentile,
    "mse": Mse,
    "entropy": Entropy,
}


def make_observer(
    name: str,
    levels: Levels,
    axis: int | None = None,
    statistic: Statistic | None = None,
    percent: float = PERCENT,
) -> Observer:
    """An observer by name.

    Args:
        percent: of "percentile"; the others have no such setting.
    Raises:
        RecipeError: an unknown name, or a percentile outside of (50, 100].
    """
    check_observer(name, percent)
    if name == "percentile":
        return Percentile(levels, axis, statistic, percent)
    return OBSERVERS[name](levels, axis, statistic)


def check_observer(name: str, percent: float = PERCENT) -> None:
    if name not in (*OBSERVERS, BEST):
        raise RecipeError("unknown observer", got=repr(name), expected=", ".join((BEST, *OBSERVERS)), do=_hint(name))
    if not 50 < percent <= 100:
        raise RecipeError("a percentile has to leave a range", got=percent, expected="above 50, at most 100")


def _hint(name: str) -> str | None:
    hint = did_you_mean(name, OBSERVERS)
    return hint if hint.startswith("did you mean") else None


def _holding_zero(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Zero has to be exact: padding, masks and clipped activations are full of it. What saw nothing stays so."""
    seen = low <= high
    return torch.where(seen, low.clamp_max(0.0), low), torch.where(seen, high.clamp_min(0.0), high)


def _nothing() -> tuple[Tensor, Tensor]:
    return torch.tensor(float("inf")), torch.tensor(float("-inf"))
