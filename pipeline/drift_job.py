"""Looking for drift in a process of its own, after a comparison of a delivery was missed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewright.errors import LoweringError
from edgewright.pipeline.jobs import run_job
from edgewright.pipeline.results import DriftResult

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class DriftJob:
    """A job: `delivery` is the folder of the delivery's own job, with its arguments and the artifact's outputs."""

    delivery: str


def locate_drift(delivery: Path) -> DriftResult:
    """The first layers that drift. A miss stays a miss, whatever happens here: what fails is told as a note."""
    try:
        return DriftResult(**run_job("drift", DriftJob(str(delivery)), delivery / "drift", TIMEOUT_S))
    except LoweringError as error:
        return DriftResult(notes=(f"the layers could not be compared: {' '.join(str(error).split())}",))


def run_drift(folder: Path, **arguments: Any) -> dict[str, Any]:
    """Carry a `DriftJob` out."""
    import torch

    from edgewright.pipeline.arrays import load_samples_file
    from edgewright.pipeline.deliver import delivery_of
    from edgewright.pipeline.drift import SAMPLES, find_drift
    from edgewright.pipeline.handover import load_program
    from edgewright.targets import get_target

    torch.set_num_threads(1)
    done = Path(DriftJob(**arguments).delivery)
    job = delivery_of(json.loads((done / "job.json").read_text())["arguments"])
    program = load_program(Path(job.program), job.inputs, job.outputs, job.dims)
    samples = load_samples_file(Path(job.samples))[:SAMPLES]
    found = load_samples_file(done / "outputs.npz")[:SAMPLES]
    target = get_target(job.target, job.minimum)
    return dataclasses.asdict(find_drift(program, target, samples, folder, found=found, threads=job.threads))
