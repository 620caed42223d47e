"""Numbers as a person reads them: three significant digits, a fitting unit, and how the figure was got."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, isfinite, log10

from edgewright.pipeline.metrics import IDENTICAL_DB
from edgewright.pipeline.results import DeliveryResult, Figure

MINUS, EN_DASH, TIMES, INFINITY = "\u2212", "\u2013", "\u00d7", "\u221e"
BYTES = (("B", 1.0), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9))
TIME_MS = (("\u00b5s", 1e-3), ("ms", 1.0), ("s", 1e3))

# How a figure was got: key (also the style of its tag), tag, meaning. The first six are `results.Provenance`.
LEGEND = (
    ("measured-on-device", "measured on device", "The file ran on the device itself."),
    ("measured-on-host", "measured on host", "The file ran in its own runtime, on the host named below."),
    ("predicted", "predicted", "From the file (or graph) and the device's profile; the interval is its known error."),
    ("reference", "reference interpreter", "Our interpreter ran the saved file, not the vendor's runtime."),
    ("file", "read from file", "Counted in the file as it ships."),
    ("executed", "executed graph", "Read from the graph that the runtime executes, after its own fusions."),
    ("pytorch", "run in PyTorch", "PyTorch ran the original or the compressed graph."),
    ("counted", "counted in the model", "Parameters of the original, four bytes each."),
)
TAGS = {key: tag for key, tag, _ in LEGEND}
TITLES = {key: meaning for key, _, meaning in LEGEND}


@dataclass(frozen=True)
class Shown:
    """A figure on the page: its text, the exact value as a title, how it was got, and its interval."""

    text: str
    title: str = ""
    kind: str = ""
    tag: str = ""
    interval: str = ""


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, thousands separated; whole numbers keep all of theirs."""
    if not isfinite(value):
        return "NaN" if value != value else INFINITY if value > 0 else MINUS + INFINITY
    decimals = 0 if value == 0 else max(0, digits - 1 - floor(log10(abs(value))))
    rounded = round(value, min(decimals, 12))
    if rounded and decimals:
        decimals = max(0, digits - 1 - floor(log10(abs(rounded))))
    return f"{rounded:,.{min(decimals, 12)}f}".replace("-", MINUS)


def scaled(value: float, units: tuple[tuple[str, float], ...], digits: int = 3) -> str:
    """With the largest unit in which the rounded value is at least 1."""
    unit, factor = _unit(value, units)
    whole = factor == 1.0 and units is BYTES
    return f"{number(value / factor, 1 if whole else digits)} {unit}"


def _unit(value: float, units: tuple[tuple[str, float], ...]) -> tuple[str, float]:
    if value == 0 or not isfinite(value):
        return next(unit for unit in units if unit[1] == 1.0)
    fitting = [unit for unit in units if abs(float(f"{value:.3g}")) >= unit[1]]
    return fitting[-1] if fitting else units[0]


def bytes_text(value: float) -> str:
    return scaled(value, BYTES)


def ms_text(value: float) -> str:
    return scaled(value, TIME_MS)


def db_text(value: float) -> str:
    """Decibels of a comparison: 200 stands for identical."""
    return "identical" if value >= IDENTICAL_DB else f"{value:.1f} dB".replace("-", MINUS)


def share_text(value: float, digits: int = 3) -> str:
    return f"{number(value * 100, digits)} %"


def metric_text(value: float) -> str:
    return f"{value:.4f}".replace("-", MINUS) if abs(value) < 10 else number(value, 4)


_BYTE_UNITS = {"bytes": 1.0, "byte": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9}
_TIME_UNITS = {"us": 1e-3, "\u00b5s": 1e-3, "ms": 1.0, "s": 1e3, "seconds": 1e3}
_UNIT_NAMES = {"db": "dB", "percent": "%", "ratio": TIMES}


def plain_unit(unit: str) -> str:
    """The unit alone, in small letters: "db" of "dB against the original"; "of ..." is a share."""
    first, _, more = unit.strip().lower().partition(" ")
    return "share" if first == "of" and more else first


def unit_text(value: float, unit: str) -> str:
    """A figure of a check, in the unit that the check names."""
    known = plain_unit(unit)
    if known in _BYTE_UNITS:
        return bytes_text(value * _BYTE_UNITS[known])
    if known in _TIME_UNITS:
        return ms_text(value * _TIME_UNITS[known])
    if known == "share":
        return share_text(value)
    if known == "db":
        return db_text(value)
    return f"{number(value)} {_UNIT_NAMES.get(known, unit)}".strip()


def interval_text(low: float, high: float, unit: str) -> str:
    """Both ends in the unit of the higher one: 1.30 to 2.90 ms."""
    known = plain_unit(unit)
    for factors, units in ((_BYTE_UNITS, BYTES), (_TIME_UNITS, TIME_MS)):
        if known in factors:
            name, factor = _unit(high * factors[known], units)
            ends = (number(end * factors[known] / factor) for end in (low, high))
            return f"{EN_DASH.join(ends)} {name}"
    return f"{unit_text(low, unit)} {EN_DASH} {unit_text(high, unit)}"


def round_text(value: float, unit: str) -> str:
    """A round number without its trailing zeros: "5 ms", where a figure would be "5.00 ms"."""
    head, _, tail = unit_text(value, unit).partition(" ")
    return f"{head.rstrip('0').rstrip('.') if '.' in head else head} {tail}".strip()


def exact(value: float, unit: str) -> str:
    """The whole figure, for a title."""
    if not isfinite(value):
        return f"{value} {unit}".strip()
    return f"{value:,.0f} {unit}".strip() if value == int(value) else f"{value:.8g} {unit}".strip()


def shown(figure: Figure, unit: str) -> Shown:
    """A figure with its provenance, and the interval of a prediction."""
    ends = figure.low, figure.high
    interval = "" if ends[0] is None or ends[1] is None else interval_text(ends[0], ends[1], unit)
    text, title = unit_text(figure.value, unit), exact(figure.value, unit)
    return Shown(text, title, figure.provenance, TAGS[figure.provenance], interval)


def plain(text: str, title: str, kind: str) -> Shown:
    return Shown(text, title, kind, TAGS[kind])


def duration(seconds: float) -> Shown:
    return Shown(ms_text(seconds * 1e3), exact(seconds, "s"))


def ran_by(delivery: DeliveryResult) -> str:
    """How outputs of the artifact were got: by its own runtime here, or by our interpreter."""
    reference = "reference" in delivery.runtime.lower() or (
        delivery.target == "coreml" and not delivery.runtime.startswith("Core ML")
    )
    return "reference" if reference else "measured-on-host"
