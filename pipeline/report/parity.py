"""The parity table: the original, the compressed graph and every delivery, on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgewright.pipeline.report.figures import (
    TIMES,
    Shown,
    bytes_text,
    db_text,
    exact,
    metric_text,
    number,
    plain,
    ran_by,
    shown,
)
from edgewright.pipeline.results import Comparison, DeliveryResult, Figure, MetricResult, ReleaseResult

HEADINGS = (
    "Delivery",
    "Target and runtime",
    "Status",
    "Metric",
    "SQNR against original",
    "SQNR against compressed graph",
    "Low-precision MACs",
    "Size against float32",
    "Latency",
    "Peak memory",
    "Package",
)


@dataclass(frozen=True)
class Line:
    """A figure of a cell: `label` where a cell holds several, `notes` on what follows from it.

    `before` holds other figures that were got in the same way, so that one tag speaks for all.
    """

    shown: Shown
    label: str = ""
    notes: tuple[str, ...] = ()
    before: tuple[tuple[str, Shown], ...] = ()


@dataclass(frozen=True)
class Cell:
    """The figures under one heading; `absent` says why there are none. `outputs` are figures per output."""

    heading: str
    lines: tuple[Line, ...]
    absent: str
    outputs: tuple[Line, ...] = ()


@dataclass(frozen=True)
class ParityRow:
    """`status` is a delivery's, or "reference" for the two rows that deliveries are compared with."""

    anchor: str
    name: str
    details: tuple[str, ...]
    target: str
    runtime: tuple[str, ...]
    status: str
    cells: tuple[Cell, ...]
    package: str | None
    no_package: str


def anchors(result: ReleaseResult) -> dict[int, str]:
    """An id for each delivery by its place: names may repeat or be hostile."""
    return {place: f"delivery-{place + 1}" for place in range(len(result.deliveries))}


def parity_rows(result: ReleaseResult) -> tuple[ParityRow, ...]:
    anchor = anchors(result)
    rows = [_original(result), *_compressed(result)]
    for place, delivery in enumerate(result.deliveries):
        rows.append(_delivery(delivery, result, anchor[place]))
    return tuple(rows)


def float32_bytes(delivery: DeliveryResult, result: ReleaseResult) -> int | None:
    """What a delivery's size is compared with: its part in float32, or the whole model."""
    if delivery.float32_bytes is not None or delivery.part is not None:
        return delivery.float32_bytes
    return result.float32_bytes


def ratio_text(size: int, float32: int) -> str:
    """How the size compares: "4.03x smaller"."""
    if size == 0 or float32 == 0 or size == float32:
        return "as float32" if size == float32 else ""
    smaller = size < float32
    ratio = float32 / size if smaller else size / float32
    return f"{number(ratio)}{TIMES} {'smaller' if smaller else 'larger'}"


def _original(result: ReleaseResult) -> ParityRow:
    metrics = {item.metric.name: item.metric.original for item in result.deliveries if item.metric}
    lines = tuple(
        Line(plain(metric_text(value), exact(value, name), "pytorch"), _function(name))
        for name, value in metrics.items()
    )
    size = plain(bytes_text(result.float32_bytes), exact(result.float32_bytes, "bytes"), "counted")
    why = "this row is what the others are compared with"
    return _reference_row("PyTorch original", ("float32",), lines, (), (Line(size),), why)


def _compressed(result: ReleaseResult) -> list[ParityRow]:
    """One row for each distinct compressed graph: deliveries with the same numbers share theirs."""
    groups: dict[tuple[object, ...], list[DeliveryResult]] = {}
    for delivery in result.deliveries:
        if delivery.compression is not None or delivery.metric is not None:
            sqnr = None if delivery.compression is None else round(delivery.compression.sqnr_db, 2)
            found = delivery.metric
            metric = None if found is None else (found.name, round(found.compressed, 6))
            groups.setdefault((delivery.part, sqnr, metric), []).append(delivery)
    if not groups:
        return [_reference_row("Compressed graph", (), (), (), (), "no delivery reached a comparison")]
    return [_compressed_row(group, len(groups) > 1) for group in groups.values()]


def _compressed_row(group: list[DeliveryResult], several: bool) -> ParityRow:
    first = group[0]
    details = [f"part {first.part}"] if first.part else []
    if several:
        details.append("for " + ", ".join(delivery.name for delivery in group))
    metric = () if first.metric is None else (_metric_line(first.metric, first.metric.compressed, "pytorch"),)
    comparison = _comparison("", first.compression, "pytorch", "")
    why = "this row is what files are compared with"
    row = _reference_row("Compressed graph", tuple(details), metric, comparison.lines, (), why)
    cells = tuple(
        replace(cell, outputs=comparison.outputs) if cell.heading == HEADINGS[4] else cell for cell in row.cells
    )
    return replace(row, cells=cells)


def _reference_row(
    name: str,
    details: tuple[str, ...],
    metric: tuple[Line, ...],
    sqnr: tuple[Line, ...],
    size: tuple[Line, ...],
    why: str,
) -> ParityRow:
    figures = (metric, sqnr, (), (), size, (), ())
    reasons = ("no metric was given", why, why, *("known of files only",) * 4)
    cells = tuple(map(Cell, HEADINGS[3:10], figures, reasons))
    return ParityRow("", name, details, "PyTorch", (), "reference", cells, None, "not a delivery")


def _delivery(delivery: DeliveryResult, result: ReleaseResult, anchor: str) -> ParityRow:
    how = ran_by(delivery)
    absent = "not known" if delivery.size_bytes is not None else f"not known: {delivery.status}"
    found = delivery.metric
    metric = () if found is None else (_metric_line(found, found.artifact, how),)
    share = delivery.low_precision_share
    details = (delivery.device, *((f"part {delivery.part}",) if delivery.part else ()))
    return ParityRow(
        anchor=anchor,
        name=delivery.name,
        details=details,
        target=delivery.target,
        runtime=tuple(text for text in (delivery.runtime, delivery.format) if text),
        status=delivery.status,
        cells=(
            Cell(HEADINGS[3], metric, absent),
            _comparison(HEADINGS[4], delivery.end_to_end, how, absent),
            _comparison(HEADINGS[5], delivery.lowering, how, absent),
            Cell(HEADINGS[6], () if share is None else (Line(shown(share, "share")),), absent),
            Cell(HEADINGS[7], _size(delivery, result), absent),
            Cell(HEADINGS[8], _lines(delivery.latency_ms, "ms"), absent),
            Cell(HEADINGS[9], _lines(delivery.memory_bytes, "bytes"), absent),
        ),
        package=delivery.package,
        no_package=f"no file was released: {delivery.status}",
    )


def _metric_line(metric: MetricResult, value: float, kind: str) -> Line:
    notes = (f"from {metric_text(metric.original)}", _drop_text(metric.original - value))
    return Line(plain(metric_text(value), exact(value, metric.name), kind), _function(metric.name), notes)


def _function(metric: str) -> str:
    """ "accuracy" of "examples.digits.data:accuracy": the title holds the whole."""
    return metric.rpartition(":")[2]


def _drop_text(drop: float) -> str:
    if drop == 0 or drop != drop:
        return "no drop" if drop == 0 else "drop unknown"
    size = metric_text(abs(drop)) if abs(drop) >= 5e-5 else "under 0.0001"
    return f"{'drop' if drop > 0 else 'gain'} {size}"


def _comparison(heading: str, comparison: Comparison | None, kind: str, absent: str) -> Cell:
    if comparison is None:
        return Cell(heading, (), absent)
    outputs = comparison.outputs if len(comparison.outputs) > 1 else {}
    return Cell(
        heading,
        (Line(_decibels(comparison.sqnr_db, kind)),),
        absent,
        tuple(Line(_decibels(value, kind), name) for name, value in outputs.items()),
    )


def _decibels(value: float, kind: str) -> Shown:
    title = "NaN, infinity, or an all-zero reference" if value <= -200 else exact(value, "dB")
    return plain(db_text(value), title, kind)


def _size(delivery: DeliveryResult, result: ReleaseResult) -> tuple[Line, ...]:
    if delivery.size_bytes is None:
        return ()
    float32 = float32_bytes(delivery, result)
    notes = () if float32 is None else (ratio_text(delivery.size_bytes, float32),)
    size = plain(bytes_text(delivery.size_bytes), exact(delivery.size_bytes, "bytes"), "file")
    return (Line(size, "", notes),)


def _lines(figures: Mapping[str, Figure], unit: str) -> tuple[Line, ...]:
    """A line for each figure; neighbours with the very same tag share theirs."""
    lines: list[Line] = []
    for name, figure in figures.items():
        line = Line(shown(figure, unit), _LABELS.get(name, name.replace("_", " ")))
        if lines and figure.provenance != "predicted" and lines[-1].shown.tag == line.shown.tag:
            last = lines.pop()
            line = replace(line, before=(*last.before, (last.label, last.shown)))
        lines.append(line)
    return tuple(lines)


_LABELS = {"host_p50": "p50", "host_p90": "p90", "host_peak": "host"}
