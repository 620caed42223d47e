"""Score the latency predictor on published measurements that its figures have not seen.

For every kernel of every shipped profile, each family of models (MobileNetV2 at all widths, the ResNets, ...) is left
out in turn: the kernel is fitted to the anchors of all other families, and the family that was left out is predicted.
Where a kernel's anchors are of one family, single models are left out instead, and the table says so. The interval's
width is the profile's own `spread`. Networks are built from their papers (prediction_cnns.py, prediction_nets.py).

    python -m bench.prediction              the table; exit code 1 when a limit is missed
    python -m bench.prediction --json FILE  the rows too
    python -m bench.prediction --fit        the figures that the anchors give, for the profiles
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil, exp, log
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.prediction_catalogue import family, network
from bench.prediction_fit import Row, fit, replace_kernel
from bench.prediction_models import inspection
from edgewright.device_profiles import DeviceProfile, load_profile, profile_names
from edgewright.device_profiles.predict import predict_latency_ms
from edgewright.device_profiles.schema import Anchor, Kernel, Runtime

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
    left_out: str
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


def groups() -> Iterator[Group]:
    """Every kernel that has at least two anchors."""
    for name in profile_names():
        if name == "host":
            continue
        profile = load_profile(name)
        for runtime in profile.runtimes:
            for kernel in runtime.kernels:
                anchors = tuple(
                    anchor
                    for anchor in profile.anchors_of(runtime.target)
                    if anchor.unit == kernel.unit and anchor.compute in kernel.dtypes
                )
                if len(anchors) > 1:
                    yield Group(profile, runtime, kernel, anchors)


def row_of(anchor: Anchor, profile: DeviceProfile) -> Row:
    latency_ms = anchor.latency_ms * profile.factor_of(anchor)
    return Row(anchor.model, network(anchor.model), anchor.compute, anchor.threads or 1, latency_ms)


def score(group: Group) -> list[Scored]:
    """Leave each family out, fit to the others, predict it."""
    key: Callable[[str], str] = family
    if len({family(anchor.model) for anchor in group.anchors}) == 1:
        key = str
    scored = []
    for name in sorted({key(anchor.model) for anchor in group.anchors}):
        seen = [row_of(anchor, group.profile) for anchor in group.anchors if key(anchor.model) != name]
        fitted = fit(group.kernel, group.profile, seen)
        profile = replace_kernel(group.profile, group.runtime, group.kernel, fitted)
        scored += [_predict(anchor, profile, name) for anchor in group.anchors if key(anchor.model) == name]
    return scored


def _predict(anchor: Anchor, profile: DeviceProfile, left_out: str) -> Scored:
    file = inspection(network(anchor.model), anchor.compute)
    interval = predict_latency_ms(file, profile, anchor.target, anchor.threads, anchor.unit)
    return Scored(
        profile.id, anchor.target, anchor.unit, anchor.compute, anchor.threads, anchor.model, left_out,
        anchor.latency_ms * profile.factor_of(anchor), interval.low, interval.expected, interval.high,
        anchor.measured_on, anchor.source,
    )  # fmt: skip


def spread_of(rows: Sequence[Scored]) -> float:
    """The factor that holds COVERED of such rows: the split-conformal quantile, or a margin beyond the worst."""
    errors = sorted(abs(log(row.ratio)) for row in rows)
    rank = ceil((len(errors) + 1) * COVERED)
    widest = errors[rank - 1] if rank <= len(errors) else errors[-1] * 1.25
    return max(LEAST_SPREAD, exp(widest))


def print_fit(console: Console) -> None:
    """The figures for the profiles, fitted to all anchors, and the spread that leaving families out gives."""
    for group in groups():
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
        console.print(f"  spread = {spread_of(score(group)):.3g}")


def print_table(console: Console, rows: Sequence[Scored]) -> None:
    table = Table("device", "target", "unit", "dtype", "threads", "model", "left out", "published ms", "predicted ms", "")
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
    kinds = sorted({(row.device, row.target, row.unit, row.compute) for row in rows})
    for kind in [*kinds, None]:
        some = [row for row in rows if kind in (None, (row.device, row.target, row.unit, row.compute))]
        errors = [abs(row.ratio - 1) for row in some]
        close, inside = sum(error <= 0.2 for error in errors), sum(row.inside for row in some)
        table.add_row(
            *(kind or ("all", "", "", "")), str(len(some)), f"{median(errors):.1%}",
            f"{close / len(some):.0%}", f"{inside / len(some):.0%}",
        )  # fmt: skip
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prediction", description="score the latency predictor")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scored rows")
    parser.add_argument("--fit", action="store_true", help="print the figures that the anchors give")
    options = parser.parse_args(arguments)
    console = Console()
    if options.fit:
        print_fit(console)
        return 0
    rows = [row for group in groups() for row in score(group)]
    if options.json:
        content = [asdict(row) | {"inside": row.inside} for row in rows]
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print_table(console, rows)
    print_summary(console, rows)
    coverage = sum(row.inside for row in rows) / len(rows)
    error = median(abs(row.ratio - 1) for row in rows)
    passed = coverage >= MIN_COVERAGE and error <= MAX_MEDIAN_ERROR
    console.print(
        f"{'passed' if passed else 'MISSED'}: {coverage:.0%} inside the interval (at least {MIN_COVERAGE:.0%}), "
        f"median error {error:.1%} (at most {MAX_MEDIAN_ERROR:.0%})"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
