"""What the command line prints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from edgewright.pipeline.report.speed import sentences

if TYPE_CHECKING:
    from rich.console import Console

    from edgewright.pipeline.results import DeliveryResult, DriftResult, Figure, ReleaseResult
    from edgewright.pipeline.verify import Verification

COLORS = {"passed": "green", "undecided": "yellow", "missed": "red", "failed": "red", "refused": "red"}


class Stopwatch:
    """Shows the stage at work, live in a terminal and as plain lines elsewhere.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("starting")
        self._stage, self._began = "starting", time.monotonic()

    def __enter__(self) -> Stopwatch:
        self._status.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._status.stop()
        if exc[0] is None:
            self._close()

    def stage(self, name: str) -> None:
        self._close()
        self._stage, self._began = name, time.monotonic()
        self._status.update(escape(name))

    def _close(self) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {escape(self._stage)}")


def print_result(console: Console, result: ReleaseResult, out: Path) -> None:
    table = Table(title=escape(result.name), title_justify="left")
    table.add_column("delivery", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for column in ("metric", "drop", "dB to original", "int share", "size", "host p50", "device (predicted)"):
        table.add_column(column, justify="right")
    for delivery in result.deliveries:
        table.add_row(*_row(delivery))
    console.print(table)
    for delivery in result.deliveries:
        if delivery.reason:
            console.print(
                f"[{COLORS[delivery.status]}]{delivery.status}[/] {escape(delivery.name)}: {escape(delivery.reason)}"
            )
        if delivery.drift:
            _print_drift(console, delivery.drift)
        for sentence in sentences(delivery.speed) if delivery.speed else ():
            console.print(f"  {escape(sentence)}")
    for name, text in result.missed_steps:
        console.print(f"[red]missed[/] {escape(name)}: {escape(text)}")
    if count := sum(len(record.warnings) for record in result.recipe):
        noun = "warning" if count == 1 else "warnings"
        console.print(f"[yellow]{count} {noun}[/]: the report lists what to look at")
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)


def _print_drift(console: Console, drift: DriftResult) -> None:
    """The first three layers; the report has the rest."""
    for layer in drift.layers[:3]:
        where = f"{layer.op} {layer.node}" + (f" in {layer.module}" if layer.module else "")
        own = "" if layer.own_db is None else f", {layer.own_db:.1f} dB when given the reference's inputs"
        fault = " [red]<- computes other numbers[/]" if layer.faulty else ""
        console.print(
            f"  drifts at {escape(where)}: {layer.sqnr_db:.1f} dB, its inputs {layer.inputs_db:.1f} dB{own}{fault}"
        )
    for note in drift.notes:
        console.print(f"  [yellow]note[/] {escape(note)}")


def _row(delivery: DeliveryResult) -> list[str]:
    status = f"[{COLORS[delivery.status]}]{delivery.status}[/]"
    metric, share = delivery.metric, delivery.low_precision_share
    return [
        escape(delivery.name),
        status,
        f"{metric.artifact:.4f}" if metric else "-",
        f"{metric.drop:+.4f}" if metric else "-",
        f"{delivery.end_to_end.sqnr_db:.1f}" if delivery.end_to_end else "-",
        f"{share.value:.1%}" if share else "-",
        f"{delivery.size_bytes / 1e6:.3f} MB" if delivery.size_bytes else "-",
        _milliseconds(delivery.latency_ms.get("host_p50")),
        _milliseconds(delivery.latency_ms.get("device")),
    ]


def _milliseconds(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3g} ms"
    return f"{figure.low:.3g}-{figure.high:.3g} ms"


def print_verification(console: Console, found: Verification) -> None:
    for fault in found.faults:
        console.print(f"[red]fault[/] {escape(fault)}")
    _print_outputs(console, found, found.outputs, found.runtime)
    for run in found.named:
        if run.fault:
            console.print(f"[red]fault[/] {escape(run.asked)}: does not run on the test vectors ({escape(run.fault)})")
        _print_outputs(console, found, run.outputs, run.runtime)
    verdict = "[green]verified[/]" if found.passed else "[red]not verified[/]"
    console.print(f"{verdict} {escape(found.manifest.name)} ({found.manifest.target} for {found.manifest.device})")


def _print_outputs(console: Console, found: Verification, outputs: Mapping[str, float], runtime: str) -> None:
    floor = found.manifest.vectors.floor_db
    for name, value in outputs.items():
        word = "[green]passed[/]" if value >= floor else "[red]missed[/]"
        console.print(f"{word} {escape(name)}: {value:.1f} dB on the test vectors, floor {floor:.1f} dB")
    if runtime:
        console.print(f"runtime: {escape(runtime)} ({found.provenance})")


def print_devices(console: Console) -> None:
    from edgewright.device_profiles import load_profile, profile_names

    table = Table()
    for column in ("device", "name", "SoC", "targets", "known to carry"):
        table.add_column(column)
    table.add_column("memory for an app", justify="right")
    for name in profile_names():
        profile = load_profile(name)
        budget = profile.memory.app_budget_mb.value
        table.add_row(
            name,
            escape(profile.name),
            escape(profile.soc),
            "\n".join(sorted(runtime.target for runtime in profile.runtimes)),
            "\n".join(
                ", ".join(carried.pin for carried in runtime.carries) or "-"
                for runtime in sorted(profile.runtimes, key=lambda runtime: runtime.target)
            ),
            f"{budget:,.0f} MB",
        )
    console.print(table)


def print_doctor(console: Console) -> None:
    import importlib.util

    from edgewright.pipeline.environment import DISTRIBUTIONS, installed_versions
    from edgewright.targets import get_target, target_names

    table = Table()
    for column in ("target", "ready", "packages", "to install"):
        table.add_column(column)
    for name in target_names():
        target = get_target(name)
        ready = all(importlib.util.find_spec(module) is not None for module in target.modules)
        packages = installed_versions(
            tuple(entry for module in target.modules for entry in DISTRIBUTIONS.get(module, (module,)))
        )
        table.add_row(
            name,
            "[green]yes[/]" if ready else "[red]no[/]",
            ", ".join(f"{package} {version}" for package, version in packages.items()) or "-",
            "" if ready else escape(f"pip install 'edgewright[{target.extra}]'"),
        )
    console.print(table)
    console.print(
        ", ".join(f"{name} {version}" for name, version in installed_versions(("torch", "torchao", "numpy")).items())
    )
