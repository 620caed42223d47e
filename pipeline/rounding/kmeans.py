"""k-means of numbers on a line: clusters are intervals of the sorted numbers, so the best ones can be computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
MOST_PIECES = 2048
PIECES_PER_CLUSTER = 64
AT_ONCE = 1 << 20  # pieces of all groups together
MOST_ROUNDS = 200


def cluster(values: NDArray[np.float32], count: int, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The `count` centers, for each row of `values`, with the least sum of w (v - nearest center)^2.

    The sorted numbers are cut into pieces, narrow where centers will lie densely; the best joining of pieces to
    clusters is found by dynamic programming, and moved to the nearest optimum over all numbers by Lloyd's iteration.
    With fewer different numbers than pieces the first step is exact by itself. Nothing is random.

    Args:
        values: (rows, numbers), finite.
        weights: (rows, numbers), not negative; None: all the same.
    Returns:
        (rows, count), ascending; a row with `count` different numbers or fewer has just these, the last repeated.
    Source: Lloyd 1982, IEEE Trans. Inf. Theory 28(2); Wang 2011, R Journal 3(2) (Ckmeans.1d.dp) for the dynamic
        programming; Panter 1951, Proc. IRE 39(1): centers lie with the cube root of the density.
    """
    pieces = min(MOST_PIECES, PIECES_PER_CLUSTER * count)
    centers = np.empty((len(values), count), dtype=np.float32)
    step = max(1, AT_ONCE // pieces)
    for start in range(0, len(values), step):
        lines: dict[int, _Line] = {}
        for row in range(start, min(start + step, len(values))):
            line = _Line.of(values[row], None if weights is None else weights[row])
            if len(line.numbers) <= count:
                centers[row] = np.pad(line.numbers, (0, count - len(line.numbers)), mode="edge")
            else:
                lines[row] = line
        if lines:
            edges = [line.cut(pieces) for line in lines.values()]
            sums = np.stack([line.sums(edge) for line, edge in zip(lines.values(), edges, strict=True)], axis=1)
            borders = _best_borders(sums, count)
            for place, (row, line) in enumerate(lines.items()):
                centers[row] = line.settle(edges[place][borders[place]])
    return centers


@dataclass(frozen=True)
class _Line:
    """Different numbers in order, with running sums (a leading 0) of w, w v and w v^2, v measured from `middle`."""

    numbers: NDArray[np.float32]
    middle: float
    mass: Floats
    moment: Floats
    square: Floats

    @staticmethod
    def of(values: NDArray[np.float32], weights: NDArray[np.float32] | None) -> _Line:
        if weights is None:
            ordered = np.sort(values)
        else:
            order = np.argsort(values, kind="stable")
            ordered = values[order]
        first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        numbers = ordered[first]
        if weights is None:
            mass = np.diff(np.append(first, len(ordered))).astype(np.float64)
        else:
            mass = np.add.reduceat(weights[order].astype(np.float64), first)
        if not mass.any():
            mass = np.ones(len(numbers))
        middle = float(np.average(numbers.astype(np.float64), weights=mass))
        centered = numbers - middle
        moment = mass * centered
        return _Line(numbers, middle, _running(mass), _running(moment), _running(moment * centered))

    def cut(self, pieces: int) -> Places:
        """`pieces` + 1 places in the numbers: half of the resolution follows their mass, half the cube root of it."""
        if len(self.numbers) <= pieces:
            return np.minimum(np.arange(pieces + 1), len(self.numbers))
        mass = np.diff(self.mass)
        gaps = np.diff(self.numbers.astype(np.float64))
        # The density is w / gap, so its cube root over the gap is w^(1/3) gap^(2/3).
        spread = _running(np.cbrt((mass[1:] + mass[:-1]) / 2 * gaps**2))
        course = self.mass[1:] / self.mass[-1] + spread / spread[-1]
        inner = np.searchsorted(course, np.linspace(0, course[-1], pieces + 1)[1:-1])
        return np.concatenate([[0], inner, [len(self.numbers)]])

    def sums(self, places: Places) -> Floats:
        return np.stack([self.mass[places], self.moment[places], self.square[places]])

    def settle(self, borders: Places) -> NDArray[np.float32]:
        """Lloyd's iteration from these intervals on, until none of them changes."""
        centers = np.zeros(len(borders) - 1)
        for _ in range(MOST_ROUNDS):
            mass, moment = np.diff(self.mass[borders]), np.diff(self.moment[borders])
            centers = np.where(mass > 0, moment / np.where(mass > 0, mass, 1.0), centers)
            centers.sort()
            between = (centers[1:] + centers[:-1]) / 2 + self.middle
            inner = np.searchsorted(self.numbers, between.astype(np.float32), side="right")
            moved = np.concatenate([[0], inner, [len(self.numbers)]])
            if np.array_equal(moved, borders):
                break
            borders = moved
        return (centers + self.middle).astype(np.float32)


def _running(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])


def _best_borders(sums: Floats, count: int) -> Places:
    """The intervals of pieces with the least error: places (rows, count + 1), of sums (3, rows, pieces + 1).

    D_k(i) = min over m <= i of D_(k-1)(m) + error of the pieces from m to i. The best m grows with i, so that half of
    the places bound the search for the other half, level by level: pieces * log(pieces) steps a cluster.
    """
    _, rows, ends = sums.shape
    pieces = ends - 1
    flat = sums.reshape(3, -1)
    row_starts = np.arange(rows) * ends
    everywhere = row_starts[:, None] + np.arange(ends)
    best = _errors(flat, np.broadcast_to(row_starts[:, None], everywhere.shape), everywhere)
    choices = []
    for _ in range(count - 1):
        after, choice = best.copy(), np.zeros((rows, ends), dtype=np.intp)
        stride = 1 << (pieces - 1).bit_length()
        at = np.array([pieces])
        low, high = np.zeros((rows, 1), dtype=np.intp), np.full((rows, 1), pieces)
        while True:
            _search(flat, best, after, choice, at, low, high)
            stride //= 2
            if not stride:
                break
            at = np.arange(stride, pieces, 2 * stride)
            low = choice[:, at - stride]
            high = np.minimum(choice[:, np.minimum(at + stride, pieces)], at)
        choices.append(choice)
        best = after
    borders = [np.full(rows, pieces)]
    for choice in reversed(choices):
        borders.append(choice[np.arange(rows), borders[-1]])
    return np.stack([np.zeros(rows, dtype=np.intp), *reversed(borders)], axis=1)


def _search(flat: Floats, best: Floats, after: Floats, choice: Places, at: Places, low: Places, high: Places) -> None:
    """Fill `after` and `choice` at the places `at` of every row, with m between `low` and `high`, (rows, places)."""
    rows, ends = best.shape
    row_starts = np.repeat(np.arange(rows) * ends, len(at))
    ends_at = np.tile(at, rows)
    lengths = (high - low).ravel() + 1
    starts = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(lengths)), lengths)
    tried = np.arange(len(owner)) + (low.ravel() + row_starts - starts)[owner]
    total = best.ravel()[tried] + _errors(flat, tried, (row_starts + ends_at)[owner])
    least = np.minimum.reduceat(total, starts)
    hits = np.flatnonzero(total == least[owner])[::-1]  # backwards: of equal ones the first is written last
    found = np.empty(len(lengths), dtype=np.intp)
    found[owner[hits]] = tried[hits]
    after[:, at] = least.reshape(rows, -1)
    choice[:, at] = (found - row_starts).reshape(rows, -1)


def _errors(flat: Floats, start: Places, end: Places) -> Floats:
    """sum w v^2 - (sum w v)^2 / sum w of intervals; 0 of empty ones."""
    mass, moment = flat[0][end] - flat[0][start], flat[1][end] - flat[1][start]
    error = flat[2][end] - flat[2][start] - moment**2 / np.where(mass > 0, mass, 1.0)
    positive: Floats = np.maximum(error, 0.0)
    return positive
