"""Every architecture on every target in every scheme: verified, or refused with node, operation, reason and way out.

A cell goes the way that `edgewright export` goes: capture, compress, lower in a process of the target's own, run, and
the same checks (parity of each output, stored bytes, share of integer arithmetic). Anything else than a verified file
or a named refusal is a failure.

    python -m bench.zoo                                 the whole zoo; writes docs/coverage.md
    python -m bench.zoo --resume cells.jsonl            keep cells in a file; those that it has are not run again
    python -m bench.zoo --models BERT "U-Net" --targets onnx --schemes w8a8
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from bench.ops_workers import remember_tables
from bench.zoo_models import ZOO, ZooModel
from bench.zoo_table import Cell, coverage_page, share_verified
from edgewright.calibration.batches import Sample
from edgewright.errors import EdgewrightError, TargetError
from edgewright.pipeline.arrays import load_samples_file
from edgewright.pipeline.assess import effect_checks, parity_checks, read_inspection
from edgewright.pipeline.capture import capture
from edgewright.pipeline.deliver import Delivery, run_delivery
from edgewright.pipeline.limits import describe
from edgewright.pipeline.lowering import refuse_schemes
from edgewright.pipeline.quiet import quiet
from edgewright.pipeline.recipe import build_passes
from edgewright.pipeline.results import Figure
from edgewright.pipeline.subject import Subject
from edgewright.pipeline.validate import compare
from edgewright.targets import get_target, require_runtime, target_names

PAGE = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"
SCHEMES: dict[str, list[dict[str, str]]] = {
    "fp32": [],
    "fp16": [{"pass": "quantize", "scheme": "fp16"}],
    "w8a8": [{"pass": "quantize", "scheme": "w8a8"}],
}
AIMS = {"fp32": 1.0, "fp16": 0.0, "w8a8": 0.97}  # float16 is a form of storage that not every target has
CALIBRATION, VALIDATION = 8, 3
TIMEOUT_S = 300.0


@dataclass
class Line:
    """One process a target: converters cannot disturb each other, and their imports are paid once."""

    target: str
    pool: ProcessPoolExecutor | None = None

    def submit(self, folder: Path, job: Delivery) -> Future[dict[str, Any]]:
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_prepare)
        return self.pool.submit(_deliver, folder, job)

    def stop(self) -> None:
        if self.pool is not None:
            for process in list((self.pool._processes or {}).values()):
                process.kill()
            self.pool.shutdown(wait=True, cancel_futures=True)
        self.pool = None


def _prepare() -> None:
    torch.set_num_threads(1)
    remember_tables()


def _deliver(folder: Path, job: Delivery) -> dict[str, Any]:
    """The job with its error as data: refusals do not survive pickling otherwise."""
    try:
        with quiet():
            return run_delivery(folder, **dataclasses.asdict(job))
    except EdgewrightError as error:
        refusals = [dataclasses.asdict(refusal) for refusal in getattr(error, "refusals", ())]
        return {"error": str(error), "refusals": refusals}
    except Exception as error:  # noqa: BLE001  (whatever a converter raises is a failed cell)
        return {"error": f"{type(error).__name__}: {error}".split("\n")[0], "refusals": []}


def cells_of(
    name: str, model: ZooModel, places: Mapping[str, Sequence[str]], lines: Mapping[str, Line]
) -> Iterator[Cell]:
    """The cells of one architecture; a failure before the targets fails all that follow from it.

    Args:
        places: targets by scheme.
    """
    calibration, validation = (_samples(model, count, seed) for count, seed in ((CALIBRATION, 1), (VALIDATION, 2)))
    try:
        original = capture(model.build(), model.batches(1, 1)[0])
    except EdgewrightError as error:
        for scheme, targets in places.items():
            yield from (Cell(name, target, scheme, "failed", str(error)) for target in targets)
        return
    for scheme, targets in places.items():
        subject = Subject(None, original, calibration, validation)
        try:
            with quiet():
                subject.compress(build_passes(SCHEMES[scheme]), 0, lambda stage: None)
        except EdgewrightError as error:
            yield from (Cell(name, target, scheme, "failed", str(error)) for target in targets)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            subject.save(folder)
            jobs = {}
            for target in targets:
                try:
                    refuse_schemes(get_target(target), [scheme])
                    jobs[target] = lines[target].submit(folder / target, _job(target, subject, folder))
                except TargetError as error:
                    yield Cell(name, target, scheme, "refused", str(error))
            subject.run_references(None)
            for target, job in jobs.items():
                yield _judge(Cell(name, target, scheme, "failed", ""), subject, folder / target, job, lines[target])


def _samples(model: ZooModel, count: int, seed: int) -> list[Sample]:
    return [{key: value.numpy() for key, value in batch.items()} for batch in model.batches(count, seed)]


def _job(target: str, subject: Subject, folder: Path) -> Delivery:
    artifact = folder / target / "artifact"
    artifact.mkdir(parents=True)
    program = subject.program
    return Delivery(
        target, str(subject.file), program.inputs, program.outputs, str(artifact), str(subject.samples_file)
    )


def _judge(cell: Cell, subject: Subject, folder: Path, job: Future[dict[str, Any]], line: Line) -> Cell:
    try:
        found = job.result(TIMEOUT_S)
    except (BrokenProcessPool, TimeoutError) as error:
        line.stop()
        return dataclasses.replace(cell, detail=f"the converter's process died or hung ({type(error).__name__})")
    if "error" in found:
        refusals = found["refusals"]
        named = refusals and all(refusal["reason"] and refusal["way_out"] for refusal in refusals)
        return dataclasses.replace(cell, status="refused" if named else "failed", detail=found["error"])
    outputs = load_samples_file(folder / "outputs.npz")
    inspection = read_inspection(found["inspection"])
    compression, end_to_end = (compare(subject.original_outputs, one) for one in (subject.compressed_outputs, outputs))
    tolerance = get_target(cell.target).capabilities.tolerance_for(subject.program.weight_bytes())
    share = Figure(
        value=inspection.low_precision_share, provenance="file" if inspection.executed is None else "executed"
    )
    checks = [
        *parity_checks(found["provenance"], tolerance, compression, end_to_end, None),
        *effect_checks(subject, get_target(cell.target), inspection, share),
    ]
    bad = [describe(check) for check in checks if check.outcome != "passed"]
    lowering = compare(subject.compressed_outputs, outputs)
    return dataclasses.replace(
        cell,
        status="failed" if bad else "verified",
        detail="; ".join(bad),
        compression_db=compression.sqnr_db,
        lowering_db=lowering.sqnr_db,
        share=share.value,
    )


def read_cells(file: Path | None) -> list[Cell]:
    if file is None or not file.is_file():
        return []
    return [Cell(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def keep_cell(file: Path | None, cell: Cell) -> None:
    if file is not None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(dataclasses.asdict(cell)) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.zoo", description="coverage of models, targets and schemes")
    parser.add_argument("--models", nargs="+", choices=sorted(ZOO), default=list(ZOO), metavar="NAME")
    parser.add_argument("--targets", nargs="+", choices=target_names(), default=list(target_names()))
    parser.add_argument("--schemes", nargs="+", choices=list(SCHEMES), default=list(SCHEMES))
    parser.add_argument("--resume", type=Path, metavar="FILE", help="cells as JSON lines: read first, then added to")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(highlight=False)
    for target in options.targets:
        require_runtime(get_target(target))
    lines = {target: Line(target) for target in options.targets}
    cells = read_cells(options.resume)
    done = {(cell.model, cell.target, cell.scheme) for cell in cells}
    try:
        for name in track(options.models, console=console, disable=not console.is_terminal):
            if not console.is_terminal:
                console.print(name)
            places = {
                scheme: [target for target in lines if (name, target, scheme) not in done] for scheme in options.schemes
            }
            wanted = {scheme: targets for scheme, targets in places.items() if targets}
            for cell in cells_of(name, ZOO[name], wanted, lines) if wanted else ():
                cells.append(cell)
                keep_cell(options.resume, cell)
                if cell.status != "verified":
                    detail = " ".join(cell.detail.split())[:400]
                    console.print(f"{cell.status} {cell.model} {cell.target} {cell.scheme}: {detail}", markup=False)
    finally:
        for line in lines.values():
            line.stop()
    for scheme in options.schemes:
        console.print(f"{scheme}: {share_verified(cells, scheme):.1%} verified, aim {AIMS[scheme]:.0%}")
    shown = [cell for cell in cells if cell.target in options.targets]
    if len(shown) == len(ZOO) * len(options.targets) * len(SCHEMES):
        PAGE.write_text(coverage_page(shown, ZOO), encoding="utf-8")
    failed = any(cell.status == "failed" for cell in cells)
    return 1 if failed or any(share_verified(cells, scheme) < AIMS[scheme] for scheme in options.schemes) else 0


if __name__ == "__main__":
    sys.exit(main())
