"""One delivery, in its own process: lower, inspect, run on the validation samples, and take the user's metric."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.pipeline.arrays import load_samples_file, save_samples_file
from edgewright.pipeline.handover import load_program
from edgewright.pipeline.lowering import write_files
from edgewright.pipeline.metric import Metric, Swap, metric_value
from edgewright.pipeline.predictor import Recall, Run
from edgewright.pipeline.program import TensorSpec
from edgewright.pipeline.shapes import Dim
from edgewright.targets import get_target


@dataclass(frozen=True)
class Delivery:
    """A job.

    Args:
        program: file of the compressed program.
        inputs, outputs, dims: its signature.
        artifact: the empty folder for the target's files.
        samples: validation inputs (.npz of arrays called "<sample>/<input>").
        metric: the user's metric, None for none, or where the artifact's outputs are enough to take it afterwards.
        swap: for a part: the model around it.
        minimum: the oldest runtime that the files have to open in.
    """

    target: str
    program: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    artifact: str
    samples: str
    dims: tuple[Dim, ...] = ()
    metric: Metric | None = None
    swap: Swap | None = None
    threads: int = 1
    integer_boundary: bool = False
    minimum: str | None = None


def run_delivery(folder: Path, **arguments: Any) -> dict[str, Any]:
    """Carry a `Delivery` out; the artifact's outputs stay in `folder`/outputs.npz."""
    import torch

    torch.set_num_threads(1)
    job = delivery_of(arguments)
    target = get_target(job.target, job.minimum)
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal started
        now = time.perf_counter()
        seconds[stage], started = now - started, now

    program = load_program(Path(job.program), job.inputs, job.outputs, job.dims)
    lap("load")
    artifact = write_files(program, target, Path(job.artifact), integer_boundary=job.integer_boundary)
    lap("lower")
    inspection = target.inspect(artifact)
    lap("inspect")
    samples = load_samples_file(Path(job.samples))
    value = None
    with target.open(artifact, job.threads) as session:
        run: Run = with_program_dtypes(session.run, job.outputs)
        outputs = [run(sample) for sample in samples]
        save_samples_file(folder / "outputs.npz", outputs)
        lap("run")
        if job.metric is not None:
            value = metric_value(job.metric, Recall(run, samples, outputs), job.swap)
            lap("metric")
        runtime, provenance = session.runtime, session.provenance
        encodings = {name: dataclasses.asdict(encoding) for name, encoding in session.encodings.items()}
    return {
        "inspection": dataclasses.asdict(inspection),
        "metric": value,
        "runtime": runtime,
        "provenance": provenance,
        "encodings": encodings,
        "seconds": seconds,
    }


def with_program_dtypes(run: Run, outputs: tuple[TensorSpec, ...]) -> Run:
    """Formats without 64-bit integers or booleans give wider or narrower ones: back to the model's own."""
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in outputs}
    return lambda inputs: {name: np.asarray(value).astype(dtypes[name]) for name, value in run(inputs).items()}


def delivery_of(arguments: dict[str, Any]) -> Delivery:
    """A job from its plain data."""

    def specs(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in entries)

    return Delivery(
        **{
            **arguments,
            "inputs": specs(arguments["inputs"]),
            "outputs": specs(arguments["outputs"]),
            "dims": tuple(Dim(**{**dim, "sizes": tuple(dim["sizes"])}) for dim in arguments["dims"]),
            "metric": Metric.of(arguments["metric"]),
            "swap": Swap(**arguments["swap"]) if arguments["swap"] else None,
        }
    )
