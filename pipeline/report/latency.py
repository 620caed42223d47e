"""The latency chart: what was measured here and what is predicted for devices, on one axis, with limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from edgewright.pipeline.report.charts import percent
from edgewright.pipeline.report.figures import Shown, ms_text, round_text, shown
from edgewright.pipeline.report.limits import limit_text
from edgewright.pipeline.results import Check, DeliveryResult, Figure, ReleaseResult

# Over this ratio of the largest to the smallest figure the axis is logarithmic.
LINEAR_RATIO = 30.0


@dataclass(frozen=True)
class Mark:
    """A row: a dot, a line from `low` on that is `width` wide, and an upright line for each limit."""

    name: str
    detail: str
    shown: Shown
    note: str
    dot: str
    low: str
    width: str
    limits: tuple[str, ...]


@dataclass(frozen=True)
class LatencyChart:
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[str, str], ...]
    logarithmic: bool


@dataclass(frozen=True)
class Axis:
    """From `start` to `end` in ms; `at` is a place on it, 0 to 1."""

    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool

    def at(self, value: float) -> float:
        if not isfinite(value):
            return 1.0
        if self.logarithmic:
            return min(1.0, log10(max(value, self.start) / self.start) / log10(self.end / self.start))
        return min(1.0, max(0.0, value / self.end))


@dataclass(frozen=True)
class _Row:
    """Latency at one place: the figure, its 90th percentile where measured, and the checks that bound it."""

    delivery: DeliveryResult
    place: str
    figure: Figure
    p90: Figure | None
    checks: tuple[Check, ...]

    @property
    def low(self) -> float:
        return self.figure.value if self.figure.low is None else self.figure.low

    @property
    def high(self) -> float:
        if self.figure.high is not None:
            return self.figure.high
        return self.figure.value if self.p90 is None else self.p90.value

    @property
    def values(self) -> list[float]:
        values = (self.figure.value, self.low, self.high, *(check.limit for check in self.checks))
        return [value for value in values if _is_drawable(value)]


def latency_chart(result: ReleaseResult) -> LatencyChart | None:
    """Host p50 with a line to p90, and the device's figure with its interval; None without any latency."""
    rows = [row for delivery in result.deliveries for row in _rows(delivery)]
    if not rows:
        return None
    values = [value for row in rows for value in row.values]
    axis = choose_axis(min(values), max(values))
    return LatencyChart(
        tuple(_mark(row, axis) for row in rows),
        tuple((percent(axis.at(tick)), "0" if tick == 0 else round_text(tick, "ms")) for tick in axis.ticks),
        axis.logarithmic,
    )


def choose_axis(smallest: float, largest: float) -> Axis:
    """Linear from zero, or in decades where the figures are too far apart for that."""
    if largest / smallest > LINEAR_RATIO:
        first, last = floor(log10(smallest)), ceil(log10(largest))
        decades = range(first, last + 1, ceil((last - first) / 6))
        return Axis(10.0**first, 10.0**last, tuple(10.0**decade for decade in decades), True)
    rough = largest / 4
    magnitude = 10.0 ** floor(log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    count = ceil(largest / step - 1e-9)
    return Axis(0.0, step * count, tuple(step * place for place in range(count + 1)), False)


def _rows(delivery: DeliveryResult) -> Iterator[_Row]:
    """What ran here, then the device. A limit stands in the row of its figure, or in the last one."""
    found, checks = delivery.latency_ms, [check for check in delivery.checks if _bounds_latency(check)]
    places = [("on this host", "host_p50", "host_p90"), ("on the device", "device", "")]
    known = [place for place in places if place[1] in found and _is_drawable(found[place[1]].value)]
    for index, (place, key, p90) in enumerate(known):
        own = [figure for figure in (found[key], found.get(p90)) if figure is not None]
        bounding = [check for check in checks if check.figure in own]
        if index == len(known) - 1:
            bounding += [check for check in checks if check.figure not in found.values()]
        yield _Row(delivery, place, found[key], found.get(p90), tuple(bounding))


def _bounds_latency(check: Check) -> bool:
    return check.unit == "ms" and "latency" in check.name and _is_drawable(check.limit)


def _is_drawable(value: float) -> bool:
    return isfinite(value) and value > 0


def _mark(row: _Row, axis: Axis) -> Mark:
    delivery = row.delivery
    notes = [f"p90 {ms_text(row.p90.value)}"] if row.p90 is not None else []
    notes += [f"{limit_text(check)}: {check.outcome}" for check in row.checks]
    where = delivery.device if row.place == "on the device" else delivery.runtime or delivery.target
    return Mark(
        name=delivery.name,
        detail=f"{row.place}: {where}",
        shown=shown(row.figure, "ms"),
        note=", ".join(notes),
        dot=percent(axis.at(row.figure.value)),
        low=percent(axis.at(row.low)),
        width=percent(max(0.0, axis.at(row.high) - axis.at(row.low))),
        limits=tuple(percent(axis.at(check.limit)) for check in row.checks),
    )
