"""The geometry of the bar charts, in percent of their width: the template draws them, and text stays text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgewright.pipeline.report.figures import Shown, bytes_text, exact, plain, share_text
from edgewright.pipeline.report.parity import float32_bytes, ratio_text
from edgewright.pipeline.results import DeliveryResult, ReleaseResult

# The colours of dtypes, and their order in a bar: the narrowest first.
_KINDS = {"int2": "q2", "uint2": "q2", "int4": "q4", "uint4": "q4", "int8": "q8", "uint8": "u8"}
_KINDS |= {"float16": "f16", "bfloat16": "f16", "float32": "f32", "float64": "f32"}


@dataclass(frozen=True)
class Segment:
    """Part of a bar, from `left` percent on, `width` percent wide; `kind` is its colour."""

    left: str
    width: str
    kind: str
    label: str = ""
    text: str = ""


@dataclass(frozen=True)
class Bar:
    """A row: what it is of, its bar over a pale one (`track`), and its figure in words."""

    name: str
    detail: str
    segments: tuple[Segment, ...]
    shown: Shown
    note: str = ""
    track: str = ""


@dataclass(frozen=True)
class Chart:
    bars: tuple[Bar, ...]
    absent: tuple[str, ...]


def size_chart(result: ReleaseResult) -> Chart:
    """A bar for each file over a pale one of its model in float32, all on one scale."""
    sized = [(item, item.size_bytes) for item in result.deliveries if item.size_bytes is not None]
    compared = [float32_bytes(delivery, result) or 0 for delivery, _ in sized]
    largest = max(1, result.float32_bytes, *(size for _, size in sized), *compared)
    original = plain(bytes_text(result.float32_bytes), exact(result.float32_bytes, "bytes"), "counted")
    whole = Segment(percent(0), _width(result.float32_bytes / largest), "whole")
    bars = [Bar("PyTorch original", "float32", (whole,), original)]
    for delivery, size in sized:
        float32 = float32_bytes(delivery, result)
        figure = plain(bytes_text(size), exact(size, "bytes"), "file")
        track = "" if float32 is None else _width(float32 / largest)
        note = "" if float32 is None else ratio_text(size, float32)
        segment = Segment(percent(0), _width(size / largest), "size")
        bars.append(Bar(delivery.name, delivery.target, (segment,), figure, note, track))
    return Chart(tuple(bars), _names(item for item in result.deliveries if item.size_bytes is None))


def dtype_chart(result: ReleaseResult) -> Chart:
    """A full bar for each file, divided by the dtypes of its constants."""
    bars = []
    for delivery in result.deliveries:
        total = sum(delivery.bytes_by_dtype.values())
        if total:
            text = plain(bytes_text(total), exact(total, "bytes"), "file")
            stack = _stack(delivery.bytes_by_dtype, total)
            bars.append(Bar(delivery.name, delivery.target, stack, text, "of constants"))
    absent = (item for item in result.deliveries if not sum(item.bytes_by_dtype.values()))
    return Chart(tuple(bars), _names(absent))


def _stack(bytes_by_dtype: dict[str, int], total: int) -> tuple[Segment, ...]:
    order = {dtype: place for place, dtype in enumerate(_KINDS)}
    segments, before = [], 0
    for dtype in sorted(bytes_by_dtype, key=lambda dtype: (order.get(dtype, len(order)), dtype)):
        size = bytes_by_dtype[dtype]
        kind = _KINDS.get(dtype, "other")
        text = f"{bytes_text(size)}, {share_text(size / total, 2)}"
        segments.append(Segment(percent(before / total), percent(size / total), kind, dtype, text))
        before += size
    return tuple(segments)


def _names(deliveries: Iterable[DeliveryResult]) -> tuple[str, ...]:
    return tuple(delivery.name for delivery in deliveries)


def percent(share: float) -> str:
    return f"{share * 100:.2f}%"


def _width(share: float) -> str:
    """Never so thin that it cannot be seen."""
    return percent(max(0.004, share))
