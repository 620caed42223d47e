"""Grids of integers: which numbers a weight may become, and the scales that fit them to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_SCALE = 2.0**-24
SHRINKS = torch.linspace(1.0, 0.3, 36)
HALF_ERROR = 2.0**-11  # relative, of the nearest float16 to a number in its normal range
CHUNK = 1 << 17


@dataclass(frozen=True)
class Grid:
    """Signed integers of `bits` bits, with one scale for each group of columns of each row.

    Args:
        bits: 2 to 8.
        group: columns that share a scale; 0: all of a row. It has to divide the columns.
        search: take the scale with the least squared error among some below max|w| / m, not that one itself.
        narrow: leave the least integer out, as 8 bits do: what multiplies integers has symmetric ones.
        signed: a scale's sign puts its group's value of the largest magnitude on the side of the least integer, which
            reaches one step farther. Not with 8 bits or `narrow`, whose sides are equal.

    Scales of groups, which are many, are numbers of float16, so that files can hold them in 16 bits: see `storable`.
    """

    bits: int
    group: int = 0
    search: bool = False
    narrow: bool = False
    signed: bool = False

    @property
    def highest(self) -> int:
        return int(2 ** (self.bits - 1) - 1)

    @property
    def lowest(self) -> int:
        """8 bits leave -128 out, as activations' partners in integer products; fewer bits cannot afford that."""
        return -self.highest - (self.bits < 8 and not self.narrow)

    def width(self, columns: int) -> int:
        return self.group or columns

    def scales(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        """Of a weight, float32 (rows, columns): float32 (rows, columns / group), never 0 and > 0 unless `signed`.

        s = max|w| / m with m = 2**(bits - 1) - 1, or with `search` the multiple of it in [0.3, 1] whose rounding has
        the least squared error, each column weighted by `importance`, float32 (columns,). Signed ones have the sign
        that maps the w of max|w| below 0; without `search`, they are w / -(m + 1).
        Source: Krishnamoorthi 2018, arXiv:1806.08342, section 2.2; the search as in Lin 2024, arXiv:2306.00978; the
            signs as in the Neural Network Compression Framework's symmetric modes.
        """
        rows, columns = weight.shape
        blocks = weight.reshape(rows, -1, self.width(columns))
        steps = self.highest if self.search or not self.signed else -self.lowest
        largest: Tensor = (torch.linalg.vector_norm(blocks, torch.inf, 2) / steps).clamp(min=SMALLEST_SCALE)
        if self.signed:
            largest = torch.where(blocks.amax(2) < -blocks.amin(2), largest, -largest)
        if not self.search:
            return self.storable(largest)
        matters = torch.ones(columns) if importance is None else importance
        matters = matters.reshape(1, -1, self.width(columns))
        found: Tensor = torch.empty_like(largest)
        for part in self._parts(weight):
            found[part] = self._searched(blocks[part], largest[part], matters)
        return self.storable(found)

    def storable(self, scales: Tensor) -> Tensor:
        """The nearest numbers of float16, which every runtime restores exactly; all as they were where float16 has no
        number within 2**-11 of each (above 65504 and below 2**-14), and where there are no groups.
        """
        rounded = scales.half().float()
        fits = self.group > 0 and bool(((rounded - scales).abs() <= HALF_ERROR * scales.abs()).all())
        return rounded if fits else scales

    def _searched(self, blocks: Tensor, largest: Tensor, matters: Tensor) -> Tensor:
        best, least = largest, torch.full_like(largest, torch.inf)
        for shrink in SHRINKS:
            tried = (largest * shrink)[..., None]
            error = blocks.div(tried).round_().clamp_(self.lowest, self.highest).mul_(tried).sub_(blocks)
            total = error.square_().mul_(matters).sum(2)
            best = torch.where(total < least, tried[..., 0], best)
            least = torch.minimum(total, least)
        return best

    def round(self, weight: Tensor, scales: Tensor) -> Tensor:
        """The nearest integers: int8, shaped like `weight`."""
        integers = torch.empty(weight.shape, dtype=torch.int8)
        for part in self._parts(weight):
            steps = torch.round(weight[part] / self.spread(scales[part], weight.shape[1]))
            integers[part] = steps.clamp_(self.lowest, self.highest)
        return integers

    def _parts(self, weight: Tensor) -> Iterator[slice]:
        """Rows that fit the processor's cache."""
        rows = max(1, CHUNK // weight.shape[1])
        return (slice(start, start + rows) for start in range(0, len(weight), rows))

    def spread(self, scales: Tensor, columns: int) -> Tensor:
        """A scale for each weight: (rows, columns)."""
        return scales.repeat_interleave(self.width(columns), 1)
