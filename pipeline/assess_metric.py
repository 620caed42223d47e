"""The user's metric of an artifact: from the outputs that its worker left, else in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewright.errors import LoweringError, ReleaseError
from edgewright.pipeline.deliver import delivery_of, with_program_dtypes
from edgewright.pipeline.jobs import run_job
from edgewright.pipeline.metric import Metric, metric_value
from edgewright.pipeline.predictor import Recall
from edgewright.pipeline.results import MetricResult
from edgewright.targets import get_target
from edgewright.targets.base import Arrays

if TYPE_CHECKING:
    from edgewright.pipeline.subject import Subject

TIMEOUT_S = 900.0


def assess_metric(
    metric: Metric | None, subject: Subject, value: float | None, outputs: Sequence[Arrays], delivery: Path
) -> MetricResult | None:
    """The metric of original, compressed graph and artifact; None when the release names none.

    Args:
        value: what the artifact's worker found; None when it left this to us.
        outputs: of the artifact, for the validation samples.
        delivery: the folder of the delivery's job.
    Raises:
        LoweringError: the metric fails on what the artifact gives: this delivery's fault alone.
    """
    if metric is None or subject.metric_original is None or subject.metric_compressed is None:
        return None
    if value is None:
        value = _of_outputs(metric, subject, outputs)
    if value is None:
        job = replace(delivery_of(json.loads((delivery / "job.json").read_text())["arguments"]), metric=metric)
        value = run_job("metric", job, delivery / "metric", TIMEOUT_S)["metric"]
    return MetricResult(
        name=metric.function, original=subject.metric_original, compressed=subject.metric_compressed, artifact=value
    )


def _of_outputs(metric: Metric, subject: Subject, outputs: Sequence[Arrays]) -> float | None:
    """None when the metric asks about other inputs now: it chooses them by what it was told before."""

    def refuse(inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        raise LookupError("only the outputs of the validation samples are here")

    known = Recall(refuse, subject.validation, outputs)
    try:
        return metric_value(metric, known, subject.swap)
    except ReleaseError as error:
        if known.missed:
            return None
        raise LoweringError(str(error)) from error


def run_metric(folder: Path, **arguments: Any) -> dict[str, Any]:
    """Take the metric of the artifact of a `Delivery` that was carried out before."""
    job = delivery_of(arguments)
    assert job.metric is not None, "there is a metric to take"
    target = get_target(job.target, job.minimum)
    with target.open(target.find(Path(job.artifact)), job.threads) as session:
        return {"metric": metric_value(job.metric, with_program_dtypes(session.run, job.outputs), job.swap)}
