"""Put our 8-bit files beside what each runtime's own quantizer makes of the same float32 model with the same data.

Four models (peer_models.py) on three runtimes, batch 1, one thread; Core ML for size alone. The calibration data is
the same for all: 16 images, 64 sentences.
Every file is made by a process of its own with a time limit, and run by one: a peer that fails is a row with its
error. Latency: all contestants of a model and runtime are open at once and take turns, so that noise hits all alike;
ratios are medians over the turns. Like with like: a peer that rounds activations as they come is judged against our
w8a8-dynamic, all others against our w8a8. SQNR: outputs on 16 held-out samples against PyTorch in float32.

    python -m bench.peers                       all, into docs/peers.md; exit code 1 when an aim is missed
    python -m bench.peers --models minilm       some of them (the page is then only printed)
    python -m bench.peers --cpu-time            judge by CPU time: for a machine that others use meanwhile
    python -m bench.peers --keep FOLDER         keeps each model's figures there; what is there is not redone
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil

from bench.peer_makers import DYNAMIC, FILES, FLOAT32, OURS, PROGRAM, QUANTIZERS, STATIC, program_of
from bench.peer_models import CALIBRATION, HELD_OUT, MODELS, SENTENCES
from edgewright.device_profiles.host import detect_host
from edgewright.pipeline.metrics import sqnr_db

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "peers.md"
MAKE_TIMEOUT_S, RUN_TIMEOUT_S = 900.0, 300.0
TURNS, RUNS = 15, 5
MOST_RATIO, MOST_MEAN_RATIO = 1.05, 0.9  # our latency over the peer's: in each row, and on the geometric mean
MINILM_DB = 23.0
SIZE_ALONE = "coreml"
ROUND_AS_IT_COMES = frozenset({"quantize_dynamic", "dynamic_wi8_afp32"})


@dataclass
class Entry:
    """One file.

    Args:
        seconds: to make it from the PyTorch model, by processes that start from nothing.
        turns: the least latency of each turn in ms, index for index with those of its rivals.
        error: why there is no file, or why it does not run.
    """

    maker: str
    seconds: float = 0.0
    size_bytes: int = 0
    latency_ms: float = math.nan
    turns: list[float] = field(default_factory=list)
    sqnr_db: float = math.nan
    error: str = ""


@dataclass
class Table:
    """The contestants of one model on one runtime, by maker."""

    model: str
    runtime: str
    entries: dict[str, Entry]

    def peers(self) -> Iterator[Entry]:
        """The peers that made a file."""
        own = (FLOAT32, *OURS[self.runtime])
        return (entry for maker, entry in self.entries.items() if maker not in own and not entry.error)

    def rival(self, maker: str) -> Entry:
        """Which of our files a row is compared with."""
        return self.entries[DYNAMIC if maker in ROUND_AS_IT_COMES else STATIC]

    def ratio(self, maker: str, to: str) -> float:
        """The median over all turns of one latency over another; NaN where one did not run."""
        pairs = zip(self.entries[maker].turns, self.entries[to].turns, strict=False)
        ratios = [mine / other for mine, other in pairs]
        return statistics.median(ratios) if ratios else math.nan


class Failure(Exception):
    """A process that failed, with the last line that it wrote."""


def run_process(arguments: Sequence[str], timeout_s: float, log: Path) -> float:
    """Seconds that a module took.

    Raises:
        Failure: it failed or ran out of time.
    """
    started = time.perf_counter()
    with log.open("wb") as file:
        try:
            code = subprocess.run(
                [sys.executable, "-m", *arguments], cwd=ROOT, stdout=file, stderr=file, timeout=timeout_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            raise Failure(f"no end within {timeout_s:.0f} s") from None
    if code:
        raise Failure(last_line(log) or f"exit code {code}")
    return time.perf_counter() - started


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").split("\n") if line.strip()]
    return lines[-1][:160].replace(str(ROOT), ".") if lines else ""


def make_all(name: str, folder: Path) -> list[Table]:
    """Every contestant's file of one model."""
    maker = "bench.peer_makers"
    run_process([maker, name, str(folder)], MAKE_TIMEOUT_S, folder / "prepare.txt")
    programs = sorted({program_of(runtime, ours) for runtime, makers in OURS.items() for ours in makers})
    compressing = {
        made: run_process([maker, name, PROGRAM, made, str(folder)], MAKE_TIMEOUT_S, folder / f"{made}.txt")
        for made in programs
    }
    tables = []
    for runtime, quantizers in QUANTIZERS.items():
        entries = {maker: Entry(maker) for maker in (FLOAT32, *OURS[runtime], *quantizers)}
        for entry in entries.values():
            before = compressing.get(program_of(runtime, entry.maker), entries[FLOAT32].seconds)
            log = folder / f"{runtime}-{entry.maker}.txt"
            print(f"{name}: {runtime} {entry.maker}", file=sys.stderr, flush=True)
            try:
                if entries[FLOAT32].error and entry.maker in quantizers:
                    raise Failure("there is no float32 file to start from")
                took = run_process([maker, name, runtime, entry.maker, str(folder)], MAKE_TIMEOUT_S, log)
            except Failure as failure:
                entry.error = str(failure)
                continue
            entry.seconds = took + (0.0 if entry.maker == FLOAT32 else before)
            entry.size_bytes = size_of(folder / runtime / entry.maker / FILES[runtime])
        tables.append(Table(name, runtime, entries))
    return tables


def size_of(path: Path) -> int:
    """A file with the weights beside it, or all files of a package."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.name.startswith(path.stem))


class Contestant:
    """A process that has a file open and runs it when told."""

    def __init__(self, table: Table, entry: Entry, folder: Path) -> None:
        self.entry = entry
        self.path = folder / table.runtime / entry.maker / FILES[table.runtime]
        self._log = folder / f"{table.runtime}-{entry.maker}-run.txt"
        self._file = self._log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.peer_runner", table.runtime, str(self.path), str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._file,
            text=True,
        )
        if self._answer() != "ready":
            self.close()
            raise Failure(last_line(self._log) or "it ended while it opened the file")

    def turn(self) -> list[list[float]]:
        """RUNS times [milliseconds, milliseconds of CPU time]."""
        assert self._process.stdin is not None, "a pipe"
        self._process.stdin.write(f"{RUNS}\n")
        self._process.stdin.flush()
        found: list[list[float]] = json.loads(self._answer())
        return found

    def _answer(self) -> str:
        assert self._process.stdout is not None, "a pipe"
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._file.close()


def race(table: Table, folder: Path, column: int) -> None:
    """Fill in latency and SQNR of every entry that has a file."""
    contestants: list[Contestant] = []
    for entry in table.entries.values():
        if not entry.error:
            try:
                contestants.append(Contestant(table, entry, folder))
            except Failure as failure:
                entry.error = str(failure)
    try:
        times: dict[str, list[float]] = {one.entry.maker: [] for one in contestants}
        for _ in range(TURNS):
            for one in contestants:
                found = [run[column] for run in one.turn()]
                times[one.entry.maker] += found
                one.entry.turns.append(min(found))
    finally:
        for one in contestants:
            one.close()
    reference = np.load(folder / "reference.npz")["arr_0"]
    for one in contestants:
        one.entry.latency_ms = statistics.median(times[one.entry.maker])
        outputs = np.load(one.path.with_name("outputs.npz"))["arr_0"]
        one.entry.sqnr_db = sqnr_db(reference, outputs.reshape(reference.shape))


def measured(name: str, column: int, keep: Path | None) -> list[Table]:
    """The tables of one model, made and raced, or as an earlier run kept them."""
    file = keep / f"{name}.json" if keep else None
    if file and file.exists():
        return [
            Table(kept["model"], kept["runtime"], {maker: Entry(**entry) for maker, entry in kept["entries"].items()})
            for kept in json.loads(file.read_text())
        ]
    with tempfile.TemporaryDirectory() as scratch:
        tables = make_all(name, Path(scratch))
        for table in tables:  # when nothing else of ours runs
            if table.runtime != SIZE_ALONE:
                race(table, Path(scratch), column)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([asdict(table) for table in tables]))
    return tables


def misses(tables: Sequence[Table]) -> Iterator[str]:
    """Every aim that was missed, as a sentence."""
    ratios = []
    for table in tables:
        where = f"{table.model} on {table.runtime}"
        yield from (
            f"{where}, {maker}: {error}" for maker in OURS[table.runtime] if (error := table.entries[maker].error)
        )
        for peer in table.peers():
            ours = table.rival(peer.maker)
            if ours.error:
                continue
            if table.runtime == SIZE_ALONE:
                if ours.size_bytes > 1.05 * peer.size_bytes:
                    yield f"{where}: {ours.size_bytes / 1e6:.2f} MB, {peer.maker} {peer.size_bytes / 1e6:.2f} MB"
                continue
            ratio = table.ratio(ours.maker, peer.maker)
            ratios.append(ratio)
            if not ratio <= MOST_RATIO:
                yield f"{where}: {ratio:.2f} times the latency of {peer.maker}, aim {MOST_RATIO}"
            if not ours.sqnr_db >= peer.sqnr_db:
                yield f"{where}: {ours.sqnr_db:.1f} dB, {peer.maker} {peer.sqnr_db:.1f} dB"
        static = table.entries[STATIC]
        if table.model == "minilm" and table.runtime != SIZE_ALONE and not static.sqnr_db >= MINILM_DB:
            yield f"{where}: {static.sqnr_db:.1f} dB, aim {MINILM_DB:.0f} dB"
    if ratios and not (mean := statistics.geometric_mean(ratios)) <= MOST_MEAN_RATIO:
        yield f"geometric mean of the latency ratios: {mean:.2f}, aim {MOST_MEAN_RATIO}"


def page(tables: Sequence[Table], column: int) -> str:
    """docs/peers.md."""
    from importlib.metadata import version

    names = ("onnxruntime", "openvino", "nncf", "ai-edge-litert", "ai-edge-quantizer", "coremltools", "torch")
    tools = ", ".join(f"{name} {version(name)}" for name in names)
    kind = "CPU time" if column else "latency"
    mean = statistics.geometric_mean(
        [
            table.ratio(ours.maker, peer.maker)
            for table in tables
            if table.runtime != SIZE_ALONE
            for peer in table.peers()
            if not (ours := table.rival(peer.maker)).error
        ]
    )
    lines = [
        "# Beside the runtimes' own quantizers",
        "",
        f"Written by `python -m bench.peers`, {datetime.date.today()}: {detect_host().soc}, {psutil.cpu_count()} "
        f"cores, one thread, batch 1, {CALIBRATION} images or {SENTENCES} sentences to calibrate with, {HELD_OUT} "
        f"held-out samples. {tools}.",
        "",
        "ResNet-50, MobileNetV3-large and ViT-tiny are plain PyTorch definitions with random weights (batch norms with "
        "randomized statistics); MiniLM has its real weights, at length 128. `edgewright w8a8` is the "
        'recipe `pass = "quantize", scheme = "w8a8"`: one compressed graph, the same numbers on every runtime; '
        "`edgewright w8a8-dynamic` is what a release for that runtime alone gets: on TFLite what convolutions read is "
        "rounded, too; ONNX and OpenVINO share one compressed graph; Core ML has no such layers.",
        "",
        "Like with like: `quantize_dynamic` and `dynamic_wi8_afp32` round activations as they come, so they are judged "
        "against our `w8a8-dynamic`; all other rows, which calibrate ranges, against our `w8a8`.",
        "",
        f"Columns: median {kind}; that over the float32 file's; ours (of the same kind) over this row's "
        "(below 1: ours is faster; beside float32 our `w8a8`); SQNR of the outputs against PyTorch in float32 on "
        "held-out samples; size; seconds from the PyTorch model to the file, imports included.",
    ]
    for table in tables:
        lines += ["", f"## {table.model}, {table.runtime}", ""]
        lines += ["| file | ms | to float32 | ours to this | SQNR | MB | seconds |", "|---|---|---|---|---|---|---|"]
        lines += [row(table, entry) for entry in table.entries.values()]
    missed = list(misses(tables))
    lines += ["", "## Aims", ""]
    lines += [f"Geometric mean of ours over the peers': {mean:.2f} (aim {MOST_MEAN_RATIO} or less)."]
    lines += [
        f"In each row at most {MOST_RATIO} times the latency, at least the SQNR; MiniLM {MINILM_DB:.0f} dB or more."
    ]
    lines += ["", *(f"- missed: {miss}" for miss in missed)] if missed else ["", "All reached."]
    return "\n".join(lines) + "\n"


def row(table: Table, entry: Entry) -> str:
    if entry.error:
        return f"| {entry.maker} | fails: {entry.error.replace('|', '/')} | | | | | |"
    size, seconds = f"{entry.size_bytes / 1e6:.2f}", f"{entry.seconds:.0f}"
    if table.runtime == SIZE_ALONE:
        return f"| {entry.maker} | | | | | {size} | {seconds} |"
    ratio = "" if table.entries[FLOAT32].error else f"{table.ratio(entry.maker, FLOAT32):.2f}"
    rival = table.rival(entry.maker)
    compared = entry.maker not in OURS[table.runtime] and not rival.error
    to_ours = f"{table.ratio(rival.maker, entry.maker):.2f}" if compared else ""
    figures = (f"{entry.latency_ms:.2f}", ratio, to_ours, f"{entry.sqnr_db:.1f} dB", size, seconds)
    return f"| {entry.maker} | {' | '.join(figures)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="our int8 files beside the peers'")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    parser.add_argument("--cpu-time", action="store_true", help="judge by CPU time instead of time")
    parser.add_argument(
        "--keep", type=Path, help="a folder that keeps each model's figures; what is there is not redone"
    )
    options = parser.parse_args(arguments)
    column = int(options.cpu_time)
    tables = [table for name in options.models for table in measured(name, column, options.keep)]
    text = page(tables, column)
    print(text)
    if set(options.models) == set(MODELS):
        PAGE.write_text(text, encoding="utf-8")
    return 1 if any(misses(tables)) else 0


if __name__ == "__main__":
    sys.exit(main())
