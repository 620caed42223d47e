"""Choose the range of an encoding from a histogram: percentile, least squared error, least lost information."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgewright.calibration.histogram import BINS, HALF, Row

Range = tuple[float, float]

COARSE = torch.tensor([2.0 ** (-step / 8) for step in range(81)], dtype=torch.float64)  # 1 down to 1/1024
FINE = torch.tensor([2.0 ** (step / 128) for step in range(-16, 17)], dtype=torch.float64)
STRIDE = 4  # bins from one candidate of the entropy search to the next
EMPTY = 1e-4  # counts of Q where it has none and P has: without, a lone outlier could never be clipped


@dataclass(frozen=True)
class Levels:
    """The integers that an encoding has, and whether 0 stands for 0.0 (symmetric) or any of them does (affine)."""

    quant_min: int = -128
    quant_max: int = 127
    symmetric: bool = False

    @property
    def steps(self) -> int:
        return self.quant_max - self.quant_min

    def encode(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of each range, as PT2E derives them: float64, `low` <= 0 <= `high`.

        Symmetric: s = 2 max(-low, high) / steps, z = 0.
        Affine: s = (high - low) / steps, z = quant_min - round(low / s).
        """
        tiny = torch.finfo(torch.float32).tiny
        if self.symmetric:
            scale = (torch.maximum(-low, high) * 2 / self.steps).clamp_min(tiny)
            return scale, torch.zeros_like(scale)
        scale = ((high - low) / self.steps).clamp_min(tiny)
        zero_point = self.quant_min - torch.round(low / scale)
        return scale, zero_point.clamp(self.quant_min, self.quant_max)


def percentile_range(row: Row, levels: Levels, percent: float) -> Range:
    """The range that `percent` of the values stay below and above, linear within a bin.

    Symmetric encodings look at the magnitudes.

    Source: Wu 2020, arXiv:2004.09602, section 3.2.
    """
    share = percent / 100
    if levels.symmetric:
        peak = _quantile(row.counts[HALF:] + row.counts[:HALF].flip(0), share) * row.width
        return max(row.low, -peak), min(row.high, peak)
    low = (HALF - _quantile(row.counts.flip(0), share)) * row.width
    high = (_quantile(row.counts, share) - HALF) * row.width
    return max(row.low, low), min(row.high, high)


def mse_range(row: Row, levels: Levels) -> Range:
    """The range with the least expected squared error, rounding and clipping together.

    E[(x - Q(x))^2] over the histogram, uniform within a bin. Both ends shrink together first, then each alone, by
    factors from 1 to 1/1024; then each is refined.

    Source: Nagel 2021, arXiv:2106.08295, section 3.1 (MSE range setting).
    """
    least, greatest = min(row.low, 0.0), max(row.high, 0.0)
    low, high = torch.tensor([least, greatest], dtype=torch.float64)
    first, last = row.span
    edges = (torch.arange(first, last + 1, dtype=torch.float64) - HALF) * row.width
    counts = row.counts[first:last].double()
    ones = torch.ones(1, dtype=torch.float64)
    for lows, highs in ((COARSE, COARSE), (COARSE, ones), (ones, COARSE), (FINE, ones), (ones, FINE)):
        tried_low = (low * lows).clamp_min(least).expand(max(len(lows), len(highs)))
        tried_high = (high * highs).clamp_max(greatest).expand_as(tried_low)
        best = int(squared_errors(edges, counts, tried_low, tried_high, levels).argmin())
        low, high = tried_low[best], tried_high[best]
    return float(low), float(high)


def squared_errors(edges: Tensor, counts: Tensor, low: Tensor, high: Tensor, levels: Levels) -> Tensor:
    """The expected squared error of each range.

    The antiderivative of (x - Q(x))^2 is k s^3 / 12 + r^3 / 3 with k the nearest integer and r what rounding takes
    away; where x is clipped, r grows on.

    Args:
        edges, counts: of the bins, float64, shapes (bins + 1,) and (bins,).
        low, high: float64, shape (ranges,).
    Returns:
        float64, shape (ranges,).
    """
    scale, zero_point = (value[:, None] for value in levels.encode(low, high))
    steps = torch.round(edges / scale).clamp(levels.quant_min - zero_point, levels.quant_max - zero_point)
    rest = edges - steps * scale
    antiderivative = steps * scale**3 / 12 + rest**3 / 3
    return (antiderivative.diff(dim=1) * (counts / edges.diff())).sum(1) / counts.sum()


def entropy_range(row: Row, levels: Levels) -> Range:
    """The range whose integers lose the least information: the least KL divergence KL(P || Q).

    For each candidate, P has the bins inside, with what lies outside added to the outermost; Q spreads each integer's
    count evenly over its non-empty bins (an empty one that P fills counts 1e-4). Candidates reach from as many bins
    as there are integers to all. The source folds the signs together; here they stay apart, so that affine encodings
    have the same formula. The bin of zero counts as its neighbour does: zero has an integer of its own.

    Source: Migacz 2017, "8-bit Inference with TensorRT", GTC 2017, slides 28 to 39.
    """
    counts = row.counts.double()
    counts[HALF] = counts[HALF + 1]
    if not bool(counts.any()):
        return row.low, row.high
    first, last = row.span
    whole = max(last - HALF, HALF - first)
    reach = torch.arange(whole, 0, -STRIDE)
    starts = (HALF - reach).clamp_min(0 if levels.symmetric else min(first, HALF))
    ends = (HALF + reach).clamp_max(BINS if levels.symmetric else max(last, HALF))
    wide = ends - starts > levels.steps
    wide[0] = True  # all of it
    starts, ends = starts[wide], ends[wide]
    best = int(_divergences(counts, starts, ends, levels.steps + 1).argmin())
    low, high = (float(end[best] - HALF) * row.width for end in (starts, ends))
    return max(row.low, low), min(row.high, high)


def _divergences(counts: Tensor, starts: Tensor, ends: Tensor, levels: int) -> Tensor:
    """KL(P || Q) of each candidate [start, end), from running sums: sum P log P - sum P log Q, level by level."""
    sums, filled, logs = (_running(value) for value in (counts, (counts > 0).double(), torch.xlogy(counts, counts)))
    parts = torch.arange(levels + 1)
    bounds = starts[:, None] + (parts * (ends - starts)[:, None]).div(levels, rounding_mode="floor")
    inside, cells = sums[bounds].diff(dim=1), filled[bounds].diff(dim=1)
    spread = inside / cells.clamp_min(1)
    total, kept = sums[-1], sums[ends] - sums[starts]
    own = logs[ends] - logs[starts]
    cross = torch.xlogy(inside, spread).sum(1)
    for outside, bin_, level in (
        (sums[starts], starts, (bounds.diff(dim=1) > 0).int().argmax(1)),
        (total - sums[ends], ends - 1, torch.full_like(ends, levels - 1)),
    ):
        there = counts[bin_]
        own += torch.xlogy(there + outside, there + outside) - torch.xlogy(there, there)
        cross += torch.xlogy(outside, torch.where(there > 0, spread.gather(1, level[:, None])[:, 0], EMPTY))
    # Where nothing lies inside, there is no Q.
    return torch.where(kept > 0, (own - cross) / total + torch.log(kept / total), torch.inf)


def _running(values: Tensor) -> Tensor:
    return torch.cat([values.new_zeros(1), values.cumsum(0)])


def _quantile(counts: Tensor, share: float) -> float:
    """Where `share` of the counts lie below, in bins from the first one's edge."""
    sums = _running(counts.double())
    wanted = share * sums[-1]
    place = int(torch.searchsorted(sums, wanted).clamp(1, len(counts))) - 1
    return place + float((wanted - sums[place]) / counts[place].clamp_min(1))
