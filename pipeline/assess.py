"""Judge one delivery: compare, measure, predict, hold against the limits, and stage the package if it may ship."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewright.device_profiles.predict import Interval, predict_latency_ms, predict_peak_bytes
from edgewright.errors import EdgewrightError
from edgewright.pipeline import limits
from edgewright.pipeline.arrays import load_samples_file
from edgewright.pipeline.assess_metric import assess_metric
from edgewright.pipeline.assess_runtimes import run_named, runtime_checks
from edgewright.pipeline.assess_sizes import compare_sizes, size_checks, size_notes
from edgewright.pipeline.drift_job import locate_drift
from edgewright.pipeline.jobs import JOBS, run_job
from edgewright.pipeline.low_precision import low_precision_share
from edgewright.pipeline.measure import Measurement
from edgewright.pipeline.package import ARTIFACT
from edgewright.pipeline.passes.stored_integers import looked_up_and_multiplied
from edgewright.pipeline.results import (
    Check,
    Comparison,
    DeliveryResult,
    Figure,
    MetricResult,
    Provenance,
    RefusalRecord,
)
from edgewright.pipeline.speed import compare_with_float32
from edgewright.pipeline.stage import VECTOR_SAMPLES, stage_package, vectors_floor_db
from edgewright.pipeline.validate import compare, parity_floor
from edgewright.targets.base import Artifact, Inspection, Target

if TYPE_CHECKING:
    from edgewright.pipeline.export import Material
    from edgewright.pipeline.plan import PlannedDelivery
    from edgewright.pipeline.subject import Subject

MEASURE_TIMEOUT_S = 300.0
PARITY = "parity of "
OVERHEAD_BYTES = 20_000
MB = 1e6


def failed(delivery: PlannedDelivery, error: BaseException) -> DeliveryResult:
    """A delivery without an artifact, with what its worker said.

    Raises:
        BaseException: `error` itself, when it is none of ours or is the user's to mend.
    """
    if not isinstance(error, EdgewrightError):
        raise error
    refusals = tuple(RefusalRecord(**refusal) for refusal in getattr(error, "refusals", ()))
    return DeliveryResult(
        name=delivery.label,
        target=delivery.section.target,
        device=delivery.section.device,
        part=delivery.section.part,
        status="refused" if refusals else "failed",
        reason=str(error),
        refusals=refusals,
    )


def assess(
    material: Material, delivery: PlannedDelivery, job: dict[str, Any], staging: Path, strict: bool
) -> DeliveryResult:
    """Put the figures of a delivery together; a package is staged unless a limit was missed."""
    subject = material.subjects[delivery.section.part]
    ran: Provenance = job["provenance"]
    inspection = read_inspection(job["inspection"])
    artifact = delivery.target.find(staging / delivery.label / ARTIFACT)
    found = load_samples_file(staging / JOBS / delivery.label / "outputs.npz")
    compression = compare(subject.original_outputs, subject.compressed_outputs)
    lowering = compare(subject.compressed_outputs, found)
    end_to_end = compare(subject.original_outputs, found)
    latency, memory = _figures(delivery, subject, job, inspection, artifact, staging)
    share = Figure(
        value=inspection.low_precision_share, provenance="file" if inspection.executed is None else "executed"
    )
    metric = assess_metric(material.metric, subject, job["metric"], found, staging / JOBS / delivery.label)
    tolerance = delivery.target.capabilities.tolerance_for(subject.program.weight_bytes())
    asked = _is_comparable(material, subject, ran)
    speed = compare_with_float32(delivery, subject, staging, inspection) if asked else None
    sizes = compare_sizes(subject, found)
    parity = parity_checks(ran, tolerance, compression, end_to_end, material.release.quality.min_sqnr_db)
    missed = any(check.outcome == "missed" and check.name.startswith(PARITY) for check in parity)
    checks = [
        *parity,
        *size_checks(ran, tolerance, sizes),
        *effect_checks(subject, delivery.target, inspection, share),
        *_metric_checks(ran, metric, material.release.quality.max_drop),
        *_limit_checks(delivery, artifact, latency, memory),
    ]
    floor = vectors_floor_db(subject, found, tolerance, compression)
    verified_on = tuple(run_named(delivery, subject, artifact, floor, material.runtimes_folder))
    checks += runtime_checks(verified_on, len(subject.validation[:VECTOR_SAMPLES]))
    status = limits.status_of(checks, strict)
    bad = [limits.describe(check) for check in checks if check.outcome != "passed"]
    result = DeliveryResult(
        name=delivery.label,
        target=delivery.section.target,
        device=delivery.section.device,
        part=delivery.section.part,
        status=status,
        package=f"{delivery.label}.zip" if status != "missed" else None,
        reason="; ".join(bad),
        runtime=job["runtime"],
        format=inspection.format,
        size_bytes=artifact.size_bytes,
        float32_bytes=_float32_bytes(subject),
        bytes_by_dtype=dict(inspection.bytes_by_dtype),
        compression=compression,
        lowering=lowering,
        end_to_end=end_to_end,
        sizes=sizes,
        metric=metric,
        low_precision_share=share,
        latency_ms=latency,
        memory_bytes=memory,
        speed=speed,
        minimum=dict(inspection.minimum or delivery.target.capabilities.minimum),
        verified_on=verified_on,
        checks=tuple(checks),
        drift=locate_drift(staging / JOBS / delivery.label) if missed else None,
        not_verified=(*_not_verified(material, delivery, job, metric), *size_notes(sizes)),
        seconds={name: round(value, 3) for name, value in job["seconds"].items()},
    )
    if status != "missed":
        stage_package(material, delivery, subject, result, job, staging, artifact, tolerance)
    return result


def _is_comparable(material: Material, subject: Subject, ran: Provenance) -> bool:
    """Whether a comparison with float32 is asked for, and says something: a quantized program in its own runtime."""
    return material.release.quality.compare_float32 and ran != "reference" and low_precision_share(subject.program) > 0


def read_inspection(content: dict[str, Any]) -> Inspection:
    """An Inspection from a job's plain data."""
    return Inspection.of(content)


def _figures(
    delivery: PlannedDelivery,
    subject: Subject,
    job: dict[str, Any],
    inspection: Inspection,
    artifact: Artifact,
    staging: Path,
) -> tuple[dict[str, Figure], dict[str, Figure]]:
    latency: dict[str, Figure] = {}
    memory: dict[str, Figure] = {}
    section = delivery.section
    if job["provenance"] != "reference":
        folder = staging / JOBS / delivery.label / "measure"
        folder.mkdir()
        first = folder / "sample.npz"
        with first.open("wb") as file:
            np.savez(file, **subject.validation[0])  # type: ignore[arg-type]
        measurement = Measurement(section.target, str(staging / delivery.label / ARTIFACT), str(first), section.threads)
        measured = run_job("measure", measurement, folder, MEASURE_TIMEOUT_S)
        latency["host_p50"] = Figure(value=round(measured["p50_ms"], 4), provenance="measured-on-host")
        latency["host_p90"] = Figure(value=round(measured["p90_ms"], 4), provenance="measured-on-host")
        memory["host_peak"] = Figure(value=measured["peak_bytes"], provenance="measured-on-host")
    if not delivery.profile.is_host:
        latency["device"] = _predicted(predict_latency_ms(inspection, delivery.profile, section.target))
        memory["device"] = _predicted(predict_peak_bytes(inspection, delivery.profile, section.target))
    return latency, memory


def _predicted(interval: Interval) -> Figure:
    return Figure(value=interval.expected, low=interval.low, high=interval.high, provenance="predicted")


def parity_checks(
    ran: Provenance, tolerance: float, compression: Comparison, end_to_end: Comparison, minimum: float | None
) -> list[Check]:
    checks = [
        limits.lower_limit(
            f"{PARITY}{name}",
            "dB against the original",
            Figure(value=end_to_end.outputs[name], provenance=ran),
            parity_floor(own, tolerance),
            "the file computes other numbers than the compressed graph: report it with the model's definition",
        )
        for name, own in compression.outputs.items()
    ]
    if minimum is not None:
        figure = Figure(value=end_to_end.sqnr_db, provenance=ran)
        advice = "quantize fewer modules, or train with quantization"
        checks.append(limits.lower_limit("least SQNR", "dB against the original", figure, minimum, advice))
    return checks


def effect_checks(subject: Subject, target: Target, inspection: Inspection, share: Figure) -> list[Check]:
    """Compression has to be in the file: integer arithmetic where the graph has it, and the graph's own bytes."""
    stated = low_precision_share(subject.program, products=target.capabilities.integer_products)
    stored = sum(inspection.bytes_by_dtype.values())
    # A table of few bits that is looked up and multiplied with may be stored in a form for each.
    twice = sum(stored.packed_bytes + 4 * stored.scales.numel() for stored in looked_up_and_multiplied(subject.program))
    allowed = 1.1 * sum(subject.program.weight_bytes().values()) + twice + OVERHEAD_BYTES
    checks = [
        limits.upper_limit(
            "stored constants",
            "bytes",
            Figure(value=stored, provenance="file"),
            round(allowed),
            "the converter stored compressed weights in a wider form",
        )
    ]
    if stated > 0:
        advice = "some layers fell back to float in this runtime: `edgewright inspect` names them"
        checks.append(
            limits.lower_limit("low-precision share", "of multiply-accumulates", share, 0.95 * stated, advice)
        )
    return checks


def _metric_checks(ran: Provenance, metric: MetricResult | None, max_drop: float | None) -> list[Check]:
    if metric is None or max_drop is None:
        return []
    figure = Figure(value=metric.drop, provenance=ran)
    advice = "more calibration samples, fewer quantized modules, or training with quantization"
    return [limits.upper_limit("metric drop", metric.name.partition(":")[2], figure, max_drop, advice)]


def _limit_checks(
    delivery: PlannedDelivery, artifact: Artifact, latency: dict[str, Figure], memory: dict[str, Figure]
) -> list[Check]:
    section, host = delivery.section, delivery.profile.is_host
    checks = []
    if section.size_mb is not None:
        figure = Figure(value=artifact.size_bytes / MB, provenance="file")
        advice = "a scheme with fewer bits, or pruning"
        checks.append(limits.upper_limit("size", "MB", figure, section.size_mb, advice))
    time = latency.get("host_p90" if host else "device")
    if section.latency_ms is not None and time is not None:
        advice = "a smaller model or scheme, or a measurement on the device itself"
        checks.append(limits.upper_limit("latency", "ms", time, section.latency_ms, advice))
    peak = memory.get("host_peak" if host else "device")
    if section.memory_mb is not None and peak is not None:
        figure = Figure(
            value=peak.value / MB,
            low=None if peak.low is None else peak.low / MB,
            high=None if peak.high is None else peak.high / MB,
            provenance=peak.provenance,
        )
        advice = "smaller activations (input size, batch) or weights"
        checks.append(limits.upper_limit("peak memory", "MB", figure, section.memory_mb, advice))
    return checks


def _not_verified(
    material: Material, delivery: PlannedDelivery, job: dict[str, Any], metric: MetricResult | None
) -> list[str]:
    sentences = []
    if job["provenance"] == "reference":
        sentences.append(
            "Apple's Core ML did not run: away from macOS the reference interpreter executed the saved package; "
            "latency and memory of Core ML were not measured."
        )
    if not delivery.profile.is_host:
        sentences.append(f"Nothing ran on a {delivery.profile.name}: latency and memory there are predictions.")
    if material.shared_data:
        sentences.append("Validation used the calibration inputs: name held-out ones under [validation].")
    if metric is None:
        sentences.append("No task metric was given: quality is SQNR alone.")
    return sentences


def _float32_bytes(subject: Subject) -> int:
    return 4 * subject.original.parameters()
