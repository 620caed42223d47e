"""Measure what an export takes: seconds of each stage, and the memory of its processes.

Each example is exported by a fresh process, as `make demo` does, and its process tree is sampled every 50 ms. Memory
is resident set size: what processes share (PyTorch's libraries) counts in each of them, so the sum over all is an upper
bound. Proportional sizes would be exact, but reading them takes 15 to 30 ms a process and slows what is measured.

    python -m bench.export                      digits and minilm; exit code 1 when a limit is missed
    python -m bench.export --examples digits    one of them
    python -m bench.export --json FILE          the rows too
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from edgewright.device_profiles.host import detect_host
from edgewright.pipeline.export import RESULT, SERVER
from edgewright.pipeline.jobs import JOBS, LOG
from edgewright.pipeline.results import ReleaseResult

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-c", "from edgewright.pipeline.cli import main; main()")
PARENT = "parent"
MEASURE = "measure"  # the folder of a measurement, inside of its delivery's

INTERVAL_S = 0.05
SECONDS = {"digits": 120.0, "vision_text": 240.0, "minilm": 30.0}  # on two cores; minilm's are aims
MOST_BYTES = {"digits": 6e9, "vision_text": 6e9, "minilm": 3e9}  # of all processes together
GB = 1e9


@dataclass
class Peaks:
    """The largest resident set of each process, by name, and of all at one moment."""

    by_process: dict[str, int] = field(default_factory=dict)
    together: int = 0

    def add(self, sizes: dict[str, int]) -> None:
        for name, size in sizes.items():
            self.by_process[name] = max(self.by_process.get(name, 0), size)
        self.together = max(self.together, sum(sizes.values()))


@dataclass(frozen=True)
class Measured:
    """One export.

    Args:
        seconds: of the whole process, PyTorch's import included.
        stages: seconds of the parent's stages, as release.json has them.
        deliveries: the same of each delivery's worker.
        peak_bytes: by process: "parent", or the worker's job (a delivery, or "<delivery>/measure").
        together_bytes: the largest sum at one moment.
        misses: limits that were missed, and deliveries that did not pass; empty when all is well.
    """

    example: str
    seconds: float
    stages: dict[str, float]
    deliveries: dict[str, dict[str, float]]
    peak_bytes: dict[str, int]
    together_bytes: int
    misses: tuple[str, ...]


def measure(example: str) -> Measured:
    """Export an example and watch it.

    Raises:
        RuntimeError: the export ended without a release.json.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out, log = Path(scratch) / "dist", Path(scratch) / "log.txt"
        command = [*COMMAND, "export", f"examples/{example}/release.toml", "--out", str(out)]
        started = time.perf_counter()
        with log.open("wb") as file:
            process = psutil.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
            try:
                peaks = watch(process)
            finally:
                if process.is_running():
                    process.kill()
                process.wait()
        seconds = time.perf_counter() - started
        if not (out / RESULT).is_file():
            raise RuntimeError(f"the export of {example} failed:\n{log.read_text(errors='replace')}")
        result = ReleaseResult.model_validate_json((out / RESULT).read_text(encoding="utf-8"))
    return Measured(
        example=example,
        seconds=round(seconds, 3),
        stages=result.seconds,
        deliveries={delivery.name: delivery.seconds for delivery in result.deliveries},
        peak_bytes=peaks.by_process,
        together_bytes=peaks.together,
        misses=tuple(misses(example, seconds, peaks.together, result)),
    )


def watch(process: psutil.Process) -> Peaks:
    """Sample a process and all below it until it ends."""
    peaks = Peaks()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        peaks.add(sizes_below(process))
        time.sleep(INTERVAL_S)
    return peaks


def sizes_below(process: psutil.Process) -> dict[str, int]:
    """Resident bytes by process name now; what a worker started counts as the worker's."""
    sizes: dict[str, int] = {}
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.Error:
        return sizes
    names: dict[int, str] = {process.pid: PARENT}
    for member in tree:
        try:
            job = job_of(member)
            # A child that has not yet called exec shares the pages of its parent: counted there.
            if not job and member.pid != process.pid and member.cmdline() == member.parent().cmdline():
                continue
            name = names.get(member.pid) or job or names.get(member.ppid(), PARENT)
            sizes[name] = sizes.get(name, 0) + member.memory_info().rss
            names[member.pid] = name
        except (psutil.Error, OSError, AttributeError):  # it ended meanwhile
            continue
    return sizes


def job_of(process: psutil.Process) -> str | None:
    """The job of a worker process, or the jobs' server: the folder of its log, below the one of all jobs."""
    for output in (1, 2):  # a server's answers go to a pipe, its errors to the log
        file = Path(os.readlink(f"/proc/{process.pid}/fd/{output}"))
        if file.name == LOG and JOBS in file.parts:
            return "/".join(file.parts[file.parts.index(JOBS) + 1 : -1])
    return None


def misses(example: str, seconds: float, together: int, result: ReleaseResult) -> Iterator[str]:
    if seconds > SECONDS[example]:
        yield f"{seconds:.0f} s, limit {SECONDS[example]:.0f} s"
    if together > MOST_BYTES[example]:
        yield f"{together / GB:.2f} GB, limit {MOST_BYTES[example] / GB:.0f} GB"
    for delivery in result.deliveries:
        if delivery.status not in ("passed", "undecided"):
            yield f"{delivery.name} {delivery.status}: {delivery.reason}"


def print_table(console: Console, row: Measured) -> None:
    """Stages in the order in which they ran, then each delivery with the peaks of its two workers."""
    table = Table("", "seconds", "peak GB", "of which", title=row.example, title_justify="left")
    for column in table.columns[1:3]:
        column.justify = "right"
    outside = row.seconds - sum(row.stages.values())
    table.add_row("start and imports", f"{outside:.1f}", "", "")
    for stage, seconds in row.stages.items():
        table.add_row(stage, f"{seconds:.1f}", "", "")
    table.add_section()
    for name, parts in row.deliveries.items():
        spelled = ", ".join(f"{part} {seconds:.1f}" for part, seconds in parts.items())
        table.add_row(f"worker: {name}", f"{sum(parts.values()):.1f}", gigabytes(row, name), spelled)
        table.add_row("  its measurement", "", gigabytes(row, f"{name}/{MEASURE}"), "")
    table.add_row(PARENT, "", gigabytes(row, PARENT), "")
    table.add_row("server of jobs", "", gigabytes(row, SERVER), "")
    table.add_section()
    limits = f"limits: {SECONDS[row.example]:.0f} s, {MOST_BYTES[row.example] / GB:.0f} GB"
    table.add_row("all together", f"{row.seconds:.1f}", f"{row.together_bytes / GB:.2f}", limits)
    console.print(table)


def gigabytes(row: Measured, name: str) -> str:
    return f"{row.peak_bytes[name] / GB:.2f}" if name in row.peak_bytes else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.export", description="time and memory of an export")
    parser.add_argument("--examples", nargs="+", choices=sorted(SECONDS), default=["digits", "minilm"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    cores = psutil.cpu_count()
    console.print(f"{detect_host().soc}, {cores} cores; the limits were chosen for two")
    rows = []
    for example in options.examples:
        rows.append(measure(example))
        print_table(console, rows[-1])
    if options.json:
        content = {"cores": cores, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        for miss in row.misses:
            console.print(f"[red]MISSED[/red] {row.example}: {miss}")
    missed = any(row.misses for row in rows)
    if not missed:
        console.print("passed: every export within its limits")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
