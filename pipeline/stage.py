"""Stage one package: the artifact is there already; its manifest, its test vectors and the zip join it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright import __version__
from edgewright.pipeline.arrays import load_samples_file
from edgewright.pipeline.environment import versions_of
from edgewright.pipeline.jobs import JOBS
from edgewright.pipeline.manifest import DimRecord, EncodingRecord, Manifest, Measurements, PortRecord, Vectors
from edgewright.pipeline.package import VECTORS, file_records, write_manifest, write_vectors
from edgewright.pipeline.results import ChoiceRecord, Comparison, DeliveryResult, Figure, ModuleRecord, PassRecord
from edgewright.pipeline.validate import compare
from edgewright.targets.base import Arrays, Artifact

if TYPE_CHECKING:
    from edgewright.pipeline.breakdown import ModuleShare
    from edgewright.pipeline.export import Material
    from edgewright.pipeline.passes.base import Pass, Prediction
    from edgewright.pipeline.passes.runner import Ran
    from edgewright.pipeline.plan import PlannedDelivery
    from edgewright.pipeline.program import TensorSpec
    from edgewright.pipeline.release import InputSection
    from edgewright.pipeline.shapes import Dim
    from edgewright.pipeline.subject import Subject

VECTOR_SAMPLES = 4
VECTOR_SLACK_DB = 6.0  # another processor may round single steps otherwise


def stage_package(
    material: Material,
    delivery: PlannedDelivery,
    subject: Subject,
    result: DeliveryResult,
    job: dict[str, Any],
    staging: Path,
    artifact: Artifact,
    tolerance: float,
) -> None:
    """Write the manifest and the test vectors beside a staged artifact."""
    folder = staging / delivery.label
    samples = subject.validation[:VECTOR_SAMPLES]
    expected = subject.compressed_outputs[: len(samples)]
    write_vectors(folder / VECTORS, samples, expected)
    found = load_samples_file(staging / JOBS / delivery.label / "outputs.npz")
    assert result.compression and result.lowering and result.end_to_end and result.low_precision_share, "assessed"
    declared = {} if subject.part else {port.name: port for port in material.release.model.inputs}
    manifest = Manifest(
        name=delivery.label,
        release=str(material.release.name),
        edgewright=__version__,
        target=result.target,
        device=result.device,
        part=result.part,
        format=result.format,
        minimum=result.minimum,
        artifact=artifact.main.relative_to(folder).as_posix(),
        inputs=_ports(subject.original.inputs, declared, job["encodings"]),
        outputs=_ports(subject.original.outputs, {}, job["encodings"]),
        dims=_dims(subject.original.dims, listed=delivery.target.capabilities.open_sizes == "listed"),
        files=file_records(folder),
        vectors=Vectors(
            file=VECTORS,
            samples=len(samples),
            floor_db=vectors_floor_db(subject, found, tolerance, result.compression),
        ),
        model_digest=subject.original.digest(),
        program_digest=subject.program.digest(),
        source=material.release.model.source,
        checkpoint_sha256=material.checkpoint_sha256,
        calibration_sha256=material.calibration_sha256,
        recipe=pass_records(subject.reports),
        release_file=material.release.model_dump(mode="json", exclude_none=True),
        versions=versions_of(material.plan),
        verified_in=result.runtime,
        provenance=job["provenance"],
        verified_on=result.verified_on,
        compression=result.compression,
        lowering=result.lowering,
        end_to_end=result.end_to_end,
        sizes=result.sizes,
        metric=result.metric,
        low_precision_share=result.low_precision_share,
        bytes_by_dtype=result.bytes_by_dtype,
        not_verified=result.not_verified,
        measurements=Measurements(latency_ms=result.latency_ms, memory_bytes=result.memory_bytes),
    )
    write_manifest(folder, manifest)


def vectors_floor_db(subject: Subject, found: Sequence[Arrays], tolerance: float, compression: Comparison) -> float:
    """What any machine has to reach: no more noise against the graph than the graph itself has against the original."""
    count = min(VECTOR_SAMPLES, len(subject.validation))
    reached = compare(subject.compressed_outputs[:count], found[:count]).sqnr_db - VECTOR_SLACK_DB
    return round(min(reached, tolerance - VECTOR_SLACK_DB, compression.sqnr_db), 1)


def _dims(dims: Sequence[Dim], *, listed: bool) -> dict[str, DimRecord]:
    return {dim.name: DimRecord(min=dim.min, max=dim.max, sizes=dim.sizes, listed=listed) for dim in dims}


def _ports(
    specs: Sequence[TensorSpec], declared: Mapping[str, InputSection], encodings: Mapping[str, Mapping[str, Any]]
) -> tuple[PortRecord, ...]:
    found = []
    for spec in specs:
        settings = declared[spec.name].preprocess if spec.name in declared else None
        found.append(
            PortRecord(
                name=spec.name,
                shape=spec.shape,
                dtype=spec.dtype,
                layout=settings.layout if settings else None,
                preprocess=settings,
                stored=EncodingRecord(**encodings[spec.name]) if spec.name in encodings else None,
            )
        )
    return tuple(found)


def pass_records(reports: Sequence[Ran]) -> tuple[PassRecord, ...]:
    """Reports as data for release.json and the manifest."""
    return tuple(
        PassRecord(
            name=ran.step.name,
            settings=_settings(ran.step),
            rewrites=ran.report.rewrites,
            skips=tuple((skip.node, skip.reason) for skip in ran.report.skips),
            missed=ran.report.missed,
            warnings=tuple((caution.node, caution.text) for caution in ran.report.warnings),
            choices=tuple(
                ChoiceRecord(
                    weight=choice.weight,
                    scheme=choice.scheme,
                    bytes=choice.bytes,
                    costs={name: float(f"{cost:.4g}") for name, cost in choice.costs.items()},
                    ms={name: float(f"{ms:.4g}") for name, ms in choice.ms.items()},
                )
                for choice in ran.report.choices
            ),
            latency_ms=_predicted(ran.report.latency),
            device=ran.report.latency.device if ran.report.latency else None,
            target=ran.report.latency.target if ran.report.latency else None,
            decided=ran.report.decided,
        )
        for ran in reports
    )


def _settings(step: Pass) -> dict[str, str | int | float | bool]:
    """All but limits that are not set: JSON has no infinity."""
    settings = dataclasses.asdict(step)  # type: ignore[call-overload]
    return {key: value for key, value in settings.items() if not isinstance(value, float) or isfinite(value)}


def _predicted(latency: Prediction | None) -> Figure | None:
    if latency is None:
        return None
    return Figure(value=latency.expected, low=latency.low, high=latency.high, provenance="predicted")


def module_records(part: str | None, modules: Sequence[ModuleShare]) -> tuple[ModuleRecord, ...]:
    return tuple(
        ModuleRecord(
            part=part,
            module=share.module,
            schemes=dict(share.schemes),
            bytes=share.bytes,
            float32_bytes=share.float32_bytes,
            error_share=round(share.error_share, 4),
        )
        for share in modules
    )
