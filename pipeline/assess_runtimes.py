"""Run a delivery in the versions of its runtime that the release names, and hold each of them to the vectors' floor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.pipeline import limits
from edgewright.pipeline.results import Check, Figure, RuntimeRecord
from edgewright.pipeline.runtimes_run import run_in
from edgewright.pipeline.stage import VECTOR_SAMPLES
from edgewright.targets.base import Artifact

if TYPE_CHECKING:
    from edgewright.pipeline.plan import PlannedDelivery
    from edgewright.pipeline.subject import Subject


def run_named(
    delivery: PlannedDelivery, subject: Subject, artifact: Artifact, floor_db: float, folder: Path | None
) -> Iterator[RuntimeRecord]:
    """One record for each pin, on the samples that become the package's test vectors.

    Args:
        folder: where environments are kept; None: the user's cache.
    """
    samples = list(zip(subject.validation[:VECTOR_SAMPLES], subject.compressed_outputs, strict=False))
    dtypes = {port.name: port.dtype for port in (*subject.original.inputs, *subject.original.outputs)}
    for pin in delivery.pins:
        run = run_in(pin, artifact.main, samples, dtypes, threads=delivery.section.threads, folder=folder)
        yield RuntimeRecord(
            asked=run.asked, runtime=run.runtime, outputs=dict(run.outputs), floor_db=floor_db, fault=run.fault
        )


def runtime_checks(records: Sequence[RuntimeRecord], samples: int) -> list[Check]:
    """One check for each output in each runtime; for a runtime that gave none, that it runs at all."""
    checks = []
    for record in records:
        if record.fault:
            figure = Figure(value=0, provenance=record.provenance)
            unit = f"of {samples} test samples"
            checks.append(limits.lower_limit(f"runs in {record.asked}", unit, figure, samples, record.fault))
        for name, value in record.outputs.items():
            figure = Figure(value=value, provenance=record.provenance)
            unit = "dB on the test vectors"
            advice = "this version computes other numbers: name a newer one, or deliver to another target"
            checks.append(limits.lower_limit(f"{name} in {record.asked}", unit, figure, record.floor_db, advice))
    return checks
