"""A histogram that grows with the range of what it sees and never with the number of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewright.calibration.extremes import Extremes

BINS = 4096
HALF = BINS // 2
# Of the bins' width 2**e: below, two values differ by less than any encoding can tell; the factor 2**-e stays finite.
LEAST_EXPONENT = -100


@dataclass(frozen=True)
class Row:
    """One histogram: bin i counts the values in [(i - HALF) * width, (i + 1 - HALF) * width).

    Args:
        counts: int64, shape (BINS,).
        low, high: the least and the greatest value themselves.
    """

    counts: Tensor
    width: float
    low: float
    high: float

    @property
    def span(self) -> tuple[int, int]:
        """The first bin that counts anything, and the one after the last."""
        filled = torch.nonzero(self.counts).flatten()
        return int(filled[0]), int(filled[-1]) + 1


class Histogram:
    """Counts in bins symmetric around zero, one row per tensor or one a channel.

    A bin is a power of two wide and begins at a multiple of its width. Where a value lies outside, the range doubles
    until it holds it, and bins are added up in pairs: as floor(floor(x / w) / 2) = floor(x / (2 w)), counts are exact,
    and chunks in any order give what all values at once give.
    """

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.extremes = Extremes(axis)
        self.counts: Tensor | None = None
        self.exponents = torch.empty(0, dtype=torch.int64)

    def update(self, values: Tensor) -> None:
        self.extremes.update(values)
        rows = _rows(values.detach().float(), self.axis)
        if self.counts is None:
            self.counts = torch.zeros(rows.shape[0], BINS, dtype=torch.int64)
            self.exponents = torch.full((rows.shape[0],), LEAST_EXPONENT)
        assert rows.shape[0] == self.counts.shape[0], "the number of channels of a value is fixed"
        self._widen(_exponents(rows.abs().amax(1)))
        factors = torch.tensor([math.ldexp(1.0, -exponent) for exponent in self.exponents.tolist()])
        places = (rows * factors[:, None]).floor_().to(torch.int64)
        if int(self.exponents.max()) > 0:  # a small negative value times a small factor may have become zero
            places = torch.where(rows < 0, places.clamp_max(-1), places)
        places += HALF + BINS * torch.arange(rows.shape[0])[:, None]
        self.counts += torch.bincount(places.flatten(), minlength=self.counts.numel()).view_as(self.counts)

    def rows(self) -> list[Row]:
        """One for the tensor, or one a channel; none before the first update."""
        if self.counts is None:
            return []
        lows, highs = self.extremes.low.reshape(-1).tolist(), self.extremes.high.reshape(-1).tolist()
        widths = [math.ldexp(1.0, exponent) for exponent in self.exponents.tolist()]
        return [Row(*row) for row in zip(self.counts, widths, lows, highs, strict=True)]

    def state(self) -> dict[str, Tensor]:
        counts = {} if self.counts is None else {"counts": self.counts, "exponents": self.exponents}
        return {**self.extremes.state(), **counts}

    def load(self, state: dict[str, Tensor]) -> None:
        self.extremes.load(state)
        self.counts = state.get("counts")
        self.exponents = state.get("exponents", self.exponents)

    def _widen(self, exponents: Tensor) -> None:
        """Make every row at least 2**exponent a bin wide, adding bins up."""
        assert self.counts is not None, "made by update"
        shifts = (exponents - self.exponents).clamp_min(0)
        if not bool(shifts.any()):
            return
        self.exponents = self.exponents + shifts
        steps = shifts.clamp_max(HALF.bit_length())  # two bins are left then: below zero, and not
        places = ((torch.arange(BINS) - HALF)[None] >> steps[:, None]) + HALF
        self.counts = torch.zeros_like(self.counts).scatter_add_(1, places, self.counts)


def _rows(values: Tensor, axis: int | None) -> Tensor:
    return values.reshape(1, -1) if axis is None else values.movedim(axis, 0).reshape(values.shape[axis], -1)


def _exponents(peaks: Tensor) -> Tensor:
    """The least e with peak < HALF * 2**e: frexp gives the least x with peak < 2**x."""
    found = torch.frexp(peaks).exponent.to(torch.int64) - (HALF.bit_length() - 1)
    return torch.where(peaks > 0, found, LEAST_EXPONENT).clamp_min(LEAST_EXPONENT)
