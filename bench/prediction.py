"""Score the latency predictor on published measurements that its figures have not seen.

For every kernel of every shipped profile, each family of models (MobileNetV2 at all widths, the ResNets, ...)
is left out in turn: the kernel is fitted to the anchors of all other families, and the family that was left
out is predicted. Where a kernel's anchors are of one family, single models are left out instead, and the
table says so. The interval's width is held out too: it is the spread of the rows of the other families, or
the profile's own where that is an estimate. Networks are built from their papers (prediction_cnns.py,
prediction_nets.py).

Apart from that, the rows that a profile lists as `checks` are in no fit: the profiles as they ship predict
them.

    python -m bench.prediction              the table; exit code 1 when a limit is missed
    python -m bench.prediction --json FILE  the rows too
    python -m bench.prediction --fit        the figures that the anchors give, for the profiles
    ... --profile my-board.toml             one device only
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, exp, log
from pathlib import Path
from statistics import median
from typing import Literal

from rich.console import Console
from rich.table import Table

from bench.prediction_catalogue import family, network
from bench.prediction_fit import Row, fit, replace_kernel
from bench.prediction_models import inspection
from edgewright.device_profiles import DeviceProfile, load_profile, profile_names
from edgewright.device_profiles.predict import predict_latency_ms
from edgewright.device_profiles.schema import Anchor, Kernel, Runtime
from edgewright.device_profiles.workload import executed

HeldOut = Literal["family", "model", "row"]

MIN_COVERAGE = 0.80  # share of published rows inside the interval
MAX_MEDIAN_ERROR = 0.20  # median of |predicted / published - 1|
COVERED = 0.85  # what a spread is chosen to hold, of the rows left out
LEAST_SPREAD = 1.2  # run to run, and runtime a year apart: no fit is better than this


@dataclass(frozen=True)
class Scored:
    """One published row and its prediction by a fit that has not seen its family (or model)."""

    device: str
    target: str
    unit: str
    compute: str
    threads: int | None
    model: str
    held_out: HeldOut
    left_out: str  # the family or model that the fit has not seen
    published_ms: float
    low_ms: float
    expected_ms: float
    high_ms: float
    measured_on: str | None
    source: str

    @property
    def inside(self) -> bool:
        return self.low_ms <= self.published_ms <= self.high_ms

    @property
    def ratio(self) -> float:
        return self.expected_ms / self.published_ms


@dataclass(frozen=True)
class Group:
    """A kernel with its anchors."""

    profile: DeviceProfile
    runtime: Runtime
    kernel: Kernel
    anchors: tuple[Anchor, ...]

    @property
    def title(self) -> str:
        return f"{self.profile.id} {self.runtime.target} {self.kernel.unit} {self.kernel.dtypes[0]}"


def shipped() -> list[DeviceProfile]:
    return [load_profile(name) for name in profile_names() if name != "host"]


def groups(profiles: Sequence[DeviceProfile] | None = None) -> Iterator[Group]:
    """Every kernel with anchors; of all shipped profiles where none is given."""
    for profile in profiles or shipped():
        for runtime in profile.runtimes:
            for kernel in runtime.kernels:
                anchors = tuple(
                    anchor
                    for anchor in profile.anchors_of(runtime.target)
                    if anchor.unit == kernel.unit and anchor.compute in kernel.dtypes
                )
                if anchors:
                    yield Group(profile, runtime, kernel, anchors)


def row_of(anchor: Anchor, profile: DeviceProfile) -> Row:
    operations = executed(inspection(network(anchor.model), anchor.compute).operations, anchor.target)
    return Row(tuple(operations), anchor.threads or 1, anchor.latency_ms * profile.factor_of(anchor))


def score(group: Group) -> list[Scored]:
    """Leave each family out, fit to the others, predict it; nothing where there is one anchor."""
    if len(group.anchors) < 2:
        return []
    several = len({family(anchor.model) for anchor in group.anchors}) > 1
    held_out: HeldOut = "family" if several else "model"
    key: Callable[[str], str] = family if several else str
    scored = []
    for name in sorted({key(anchor.model) for anchor in group.anchors}):
        seen = [row_of(anchor, group.profile) for anchor in group.anchors if key(anchor.model) != name]
        fitted = fit(group.kernel, group.profile, seen)
        profile = replace_kernel(group.profile, group.runtime, group.kernel, fitted)
        left_out = [anchor for anchor in group.anchors if key(anchor.model) == name]
        scored += [_predict(anchor, profile, held_out, name) for anchor in left_out]
    if group.kernel.spread.source.startswith("measured:"):
        return [_with_width_of_others(row, scored) for row in scored]
    return scored


def check(profiles: Sequence[DeviceProfile] | None = None) -> list[Scored]:
    """Predict the rows that are in no fit (`calibration.checks`) with the profiles as they ship."""
    rows = [(row, profile) for profile in profiles or shipped() for row in profile.calibration.checks]
    return [_predict(row, profile, "row", "never in a fit") for row, profile in rows]


def _with_width_of_others(row: Scored, scored: Sequence[Scored]) -> Scored:
    """The row with the interval that the families which it is not of would give it."""
    others = [other for other in scored if other.left_out != row.left_out]
    if len(others) < 3:
        return row
    spread = spread_of(others)
    return replace(row, low_ms=row.expected_ms / spread, high_ms=row.expected_ms * spread)


def _predict(anchor: Anchor, profile: DeviceProfile, held_out: HeldOut, left_out: str) -> Scored:
    file = inspection(network(anchor.model), anchor.compute)
    interval = predict_latency_ms(file, profile, anchor.target, anchor.threads, anchor.unit)
    return Scored(
        device=profile.id,
        target=anchor.target,
        unit=anchor.unit,
        compute=anchor.compute,
        threads=anchor.threads,
        model=anchor.model,
        left_out=left_out,
        held_out=held_out,
        published_ms=anchor.latency_ms * profile.factor_of(anchor),
        low_ms=interval.low,
        expected_ms=interval.expected,
        high_ms=interval.high,
        measured_on=anchor.measured_on,
        source=anchor.source,
    )


def spread_of(rows: Sequence[Scored]) -> float:
    """The factor that holds COVERED of the rows left out."""
    errors = sorted(abs(log(row.ratio)) for row in rows)
    return max(LEAST_SPREAD, exp(errors[ceil(len(errors) * COVERED) - 1]))


def print_fit(console: Console, profiles: Sequence[DeviceProfile] | None) -> None:
    """The figures for the profiles, fitted to all anchors, and the spread that leaving families out gives."""
    for group in groups(profiles):
        rows = [row_of(anchor, group.profile) for anchor in group.anchors]
        fitted = fit(group.kernel, group.profile, rows)
        console.print(f"[bold]{group.title}[/bold], {len(rows)} anchors")
        for name in ("efficiency", "gbps", "weight_gbps", "op_us", "request_us"):
            figure = getattr(fitted, name)
            if figure is not None:
                console.print(f"  {name} = {figure.value:.3g}")
        if fitted.scaling is not None:
            gains = f"compute {fitted.scaling.compute.value:.3g}, bytes {fitted.scaling.bytes.value:.3g}"
            console.print(f"  scaling at {fitted.scaling.threads} threads: {gains}")
        if len(rows) > 1:
            console.print(f"  spread = {spread_of(score(group)):.3g}")


def print_table(console: Console, rows: Sequence[Scored]) -> None:
    table = Table(
        "device",
        "target",
        "unit",
        "dtype",
        "threads",
        "model",
        "left out",
        "published ms",
        "predicted ms",
        "",
    )
    for row in rows:
        model = row.model + (f" (on {row.measured_on})" if row.measured_on else "")
        interval = f"{row.expected_ms:.3g} [{row.low_ms:.3g}, {row.high_ms:.3g}]"
        table.add_row(
            row.device, row.target, row.unit, row.compute, str(row.threads or ""), model, row.left_out,
            f"{row.published_ms:.3g}", interval, "in" if row.inside else "[red]out[/red]",
        )  # fmt: skip
    console.print(table)


def print_summary(console: Console, rows: Sequence[Scored]) -> None:
    table = Table("device", "target", "unit", "dtype", "rows", "median error", "within 20 %", "inside the interval")
    folds = [row for row in rows if row.held_out != "row"]
    kinds = sorted({(row.device, row.target, row.unit, row.compute) for row in folds})
    parts = [(kind, [r for r in folds if (r.device, r.target, r.unit, r.compute) == kind]) for kind in kinds]
    for title, held_out in (("all, family left out", "family"), ("all, model left out", "model")):
        parts.append(((title, "", "", ""), [row for row in rows if row.held_out == held_out]))
    parts.append((("never in a fit", "", "", ""), [row for row in rows if row.held_out == "row"]))
    for kind, some in ((kind, some) for kind, some in parts if some):
        close = sum(abs(row.ratio - 1) <= 0.2 for row in some) / len(some)
        table.add_row(*kind, str(len(some)), f"{_error(some):.1%}", f"{close:.0%}", f"{_coverage(some):.0%}")
    console.print(table)


def _error(rows: Sequence[Scored]) -> float:
    return median(abs(row.ratio - 1) for row in rows)


def _coverage(rows: Sequence[Scored]) -> float:
    return sum(row.inside for row in rows) / len(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prediction", description="score the latency predictor")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scored rows")
    parser.add_argument("--fit", action="store_true", help="print the figures that the anchors give")
    parser.add_argument("--profile", metavar="ID_OR_FILE", help="one device only, such as your own .toml")
    options = parser.parse_args(arguments)
    profiles = [load_profile(options.profile)] if options.profile else None
    console = Console()
    if options.fit:
        print_fit(console, profiles)
        return 0
    rows = [row for group in groups(profiles) for row in score(group)] + check(profiles)
    if not rows:
        console.print("no kernel of this profile has two anchors: nothing to score")
        return 2
    if options.json:
        content = [asdict(row) | {"inside": row.inside} for row in rows]
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print_table(console, rows)
    print_summary(console, rows)
    # Models of a family that the fit has seen are easy: only unseen families are held to the limits.
    strict = [row for row in rows if row.held_out == "family"] or rows
    coverage, error = _coverage(strict), _error(strict)
    passed = coverage >= MIN_COVERAGE and error <= MAX_MEDIAN_ERROR
    console.print(
        f"{'passed' if passed else 'MISSED'}, on unseen families: "
        f"{coverage:.0%} inside the interval (at least {MIN_COVERAGE:.0%}), "
        f"median error {error:.1%} (at most {MAX_MEDIAN_ERROR:.0%})"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
