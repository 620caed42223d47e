"""The one orchestrator: capture, compress, lower, validate, package."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgewright import __version__
from edgewright.calibration.batches import Sample, digest_of, load_samples
from edgewright.errors import CalibrationError, LoweringError
from edgewright.pipeline.assess import assess, failed
from edgewright.pipeline.deliver import Delivery
from edgewright.pipeline.environment import describe_host, versions_of
from edgewright.pipeline.forked_jobs import ForkedJobs
from edgewright.pipeline.jobs import JOBS, run_job, stop_jobs
from edgewright.pipeline.meanwhile import mapped_meanwhile
from edgewright.pipeline.metric import Metric, MetricInput, Swap
from edgewright.pipeline.package import publish, sha256_of, zip_package
from edgewright.pipeline.passes.runner import Ran
from edgewright.pipeline.plan import Plan, PlannedDelivery, make_plan
from edgewright.pipeline.predictor import run_program
from edgewright.pipeline.quiet import quiet
from edgewright.pipeline.release import Release, TrainingSection, locate_files, read_release
from edgewright.pipeline.report import render_report
from edgewright.pipeline.results import DeliveryResult, ReleaseResult
from edgewright.pipeline.runtimes_environment import ready_environment
from edgewright.pipeline.shapes import OpenShapes
from edgewright.pipeline.sources import add_import_roots, load_callable, load_model
from edgewright.pipeline.stage import module_records, pass_records
from edgewright.pipeline.staging import staging_folder
from edgewright.pipeline.subject import Subject, part_of, saved_program, whole_model
from edgewright.pipeline.training import Training

RESULT, REPORT = "release.json", "report.html"
SERVER = ".server"  # the folder of the jobs' server; no delivery's name starts with a dot
SIDE_BY_SIDE = 2  # converters at once
Progress = Callable[[str], None]


@dataclass
class Stages:
    """Names each stage to the listener and keeps its seconds."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.progress(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Material:
    """What a release is made of, loaded."""

    release: Release
    plan: Plan
    subjects: dict[str | None, Subject]
    metric: Metric | None
    checkpoint_sha256: str | None
    calibration_sha256: str | None
    shared_data: bool
    runtimes_folder: Path | None = None


def export(
    release: str | Path,
    out: str | Path,
    *,
    strict: bool = False,
    timeout_s: float = 900.0,
    trust_input: str | None = None,
    runtimes_folder: Path | None = None,
    progress: Progress = lambda stage: None,
) -> ReleaseResult:
    """Carry a release file out: packages, release.json and report.html in `out`.

    Nothing in `out` is touched before everything is ready; then each package, and at last release.json, takes its
    place whole. A delivery that misses a limit gets no package.

    Args:
        strict: a prediction whose interval straddles its limit counts as a miss.
        timeout_s: for each converter's process.
        trust_input: SHA-256 of a .pt2 source.
        runtimes_folder: where the environments of named runtimes are kept; None: the user's cache.
        progress: hears the name of each stage as it starts.
    Raises:
        EdgewrightError: bad input; nothing was written.
    """
    out = Path(out)
    file = Path(release)
    content = read_release(file)
    roots = (Path.cwd(), file.resolve().parent)
    add_import_roots(*roots)
    stages = Stages(progress)
    with stages("plan"), quiet():  # the user's modules and ours import torchao and transformers, which talk on import
        plan = make_plan(content)
    pins = [pin for delivery in plan.deliveries for pin in delivery.pins]
    if pins:
        with stages("runtimes"):
            for pin in dict.fromkeys(pins):
                ready_environment(pin, runtimes_folder, stages.progress)
    import torch

    # Half of the cores: what runs beside has the rest, and threads that wait for a core spin.
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    with staging_folder(out) as staging:
        targets = dict.fromkeys(delivery.section.target for delivery in plan.deliveries)
        workers = ForkedJobs(staging / JOBS / SERVER, targets)
        try:
            material = replace(_load(content, plan, stages, trust_input, roots), runtimes_folder=runtimes_folder)
            deliveries = _deliver(material, workers, staging, stages, strict, timeout_s)
        finally:
            workers.close()
            stop_jobs()
        result = _result(material, deliveries, stages)
        _publish(result, staging, out)
    return result


def _load(release: Release, plan: Plan, stages: Stages, trust_input: str | None, roots: tuple[Path, ...]) -> Material:
    located = locate_files(release, roots)
    model, ports = located.model, release.model.inputs
    with stages("data"):
        if release.calibration is None and release.validation is None:
            raise CalibrationError(
                "a release needs data to verify its artifacts on",
                do="name a source under [calibration] or [validation]",
            )
        data = {
            key: load_samples(section.data, ports, section.samples, f"{key}.data", release.model.open_dims)
            for key, section in (("calibration", located.calibration), ("validation", located.validation))
            if section is not None
        }
        training = located.training
        if training and training.data:
            data["training"] = load_samples(
                training.data, ports, training.samples, "training.data", release.model.open_dims, more=True
            )
        calibration = data.get("calibration", data.get("validation", []))
        validation = data.get("validation", calibration)
    metric = None
    if release.quality.metric:
        inputs = tuple(MetricInput(port.name, port.shape, port.dtype) for port in ports)
        metric = Metric(release.quality.metric, inputs, tuple(map(str, roots)))
    with stages("capture"):
        subjects = _subjects(located, plan, calibration, validation, data.get("training", []), trust_input)
    kept = located.calibration.statistics if located.calibration else None
    statistics = Path(kept) if kept else None
    declared = {port.name: port.declared_range for port in ports if port.declared_range}
    for subject in subjects.values():
        with mapped_meanwhile(run_program(subject.original), subject.validation) as outputs:
            with stages("compress"):
                subject.compress(
                    plan.passes,
                    release.seed,
                    stages.progress,
                    statistics,
                    declared,
                    metric,
                    _training(training),
                    plan.latency,
                )
            with stages("run the original"):
                subject.judge_original(metric, outputs.result())
    return Material(
        release,
        plan,
        subjects,
        metric,
        sha256_of(Path(model.checkpoint)) if model.checkpoint else None,
        digest_of(data["calibration"]) if "calibration" in data else None,
        release.calibration is None or release.validation is None,
    )


def _training(section: TrainingSection | None) -> Training:
    """What of it is the same for the whole model and its parts: all but the data."""
    if section is None:
        return Training()
    loss = load_callable(section.loss, "training.loss") if section.loss else None
    return Training((), loss, Path(section.checkpoint) if section.checkpoint else None)


def _subjects(
    release: Release,
    plan: Plan,
    calibration: list[Sample],
    validation: list[Sample],
    training: list[Sample],
    trust_input: str | None,
) -> dict[str | None, Subject]:
    model = release.model
    wanted = {delivery.section.part for delivery in plan.deliveries}
    if model.source.endswith(".pt2"):
        subject = saved_program(Path(model.source), trust_input, calibration, validation)
        return {None: replace(subject, training=training)}
    module = load_model(model.source, model.checkpoint)
    subjects: dict[str | None, Subject] = {}
    if None in wanted:
        subject = whole_model(module, calibration, validation, OpenShapes.of(model.inputs, model.open_dims))
        subjects[None] = replace(subject, training=training)
    inputs = [{port.name: sample[port.name] for port in model.inputs} for sample in training]
    for part in model.parts:
        if part.name in wanted:
            swap = Swap(model.source, model.checkpoint, part.module)
            subjects[part.name] = part_of(module, part.name, part.module, swap, calibration, validation, inputs)
    return subjects


def _deliver(
    material: Material, workers: ForkedJobs, staging: Path, stages: Stages, strict: bool, timeout_s: float
) -> list[DeliveryResult]:
    """Converters run side by side, two at a time; the references of the graphs are run meanwhile."""
    jobs: dict[str, Future[dict[str, object]]] = {}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        try:
            with stages("lower and verify"):
                for subject in material.subjects.values():
                    subject.save(staging / JOBS)
                for delivery in material.plan.deliveries:
                    jobs[delivery.label] = pool.submit(_run, material, delivery, workers, staging, timeout_s)
                for subject in material.subjects.values():
                    subject.run_compressed(material.metric)
                    subject.break_down()
                for label, job in jobs.items():
                    stages.progress(label)
                    _wait(job)
            with stages("measure and package"), ThreadPoolExecutor(1) as packer:
                results = []
                packed: list[Future[Path]] = []
                for delivery in material.plan.deliveries:
                    results.append(_finish(material, delivery, jobs[delivery.label], staging, strict, stages))
                    if results[-1].package:  # the next is measured meanwhile: one thread, as here
                        packed.append(packer.submit(zip_package, staging / delivery.label))
                for archive in packed:
                    archive.result()
                return results
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(job.done() for job in jobs.values()):  # one may be about to start
                stop_jobs()
                time.sleep(0.05)
            raise


def _run(
    material: Material, delivery: PlannedDelivery, workers: ForkedJobs, staging: Path, timeout_s: float
) -> dict[str, object]:
    subject = material.subjects[delivery.section.part]
    artifact = staging / delivery.label / "artifact"
    artifact.mkdir(parents=True)
    job = Delivery(
        target=delivery.section.target,
        program=str(subject.file),
        inputs=subject.program.inputs,
        outputs=subject.program.outputs,
        artifact=str(artifact),
        samples=str(subject.samples_file),
        dims=subject.program.dims,
        metric=None if subject.metric_reads_outputs else material.metric,
        swap=subject.swap,
        threads=delivery.section.threads,
        integer_boundary=delivery.section.integer_boundary,
        minimum=delivery.minimum,
    )
    return run_job("deliver", job, staging / JOBS / delivery.label, timeout_s, workers.start)


def _wait(job: Future[dict[str, object]]) -> None:
    """Wait in short steps, so that Ctrl-C is heard; the result, or the error, is taken later."""
    while not job.done():
        time.sleep(0.05)


def _finish(
    material: Material,
    delivery: PlannedDelivery,
    job: Future[dict[str, object]],
    staging: Path,
    strict: bool,
    stages: Stages,
) -> DeliveryResult:
    error = job.exception()
    if error is not None:
        return failed(delivery, error)
    stages.progress(f"measure {delivery.label}")
    try:
        return assess(material, delivery, job.result(), staging, strict)
    except LoweringError as crash:  # the file ran, and its measurement crashed
        return failed(delivery, crash)


def _result(material: Material, deliveries: list[DeliveryResult], stages: Stages) -> ReleaseResult:
    release = material.release
    first = next(iter(material.subjects.values()))
    reports: tuple[Ran, ...] = tuple(report for subject in material.subjects.values() for report in subject.reports)
    sizes = [subject.original for part, subject in material.subjects.items() if part is None] or [
        subject.original for subject in material.subjects.values()
    ]
    parameters = sum(program.parameters() for program in sizes)
    return ReleaseResult(
        name=str(release.name),
        edgewright=__version__,
        source=release.model.source,
        model_digest=first.original.digest(),
        checkpoint_sha256=material.checkpoint_sha256,
        calibration_sha256=material.calibration_sha256,
        parameters=parameters,
        float32_bytes=4 * parameters,
        recipe=pass_records(reports),
        modules=tuple(
            record for part, subject in material.subjects.items() for record in module_records(part, subject.modules)
        ),
        versions=versions_of(material.plan),
        host=describe_host(),
        deliveries=tuple(deliveries),
        seconds={name: round(value, 3) for name, value in stages.seconds.items()},
    )


def _publish(result: ReleaseResult, staging: Path, out: Path) -> None:
    """Packages first, release.json last: it is what says that the rest is there."""
    staged: dict[Path, Path] = {}
    for delivery in result.deliveries:
        if delivery.package:
            staged[staging / delivery.name] = out / delivery.name
            staged[staging / f"{delivery.name}.zip"] = out / f"{delivery.name}.zip"
    (staging / REPORT).write_text(render_report(result), encoding="utf-8")
    (staging / RESULT).write_text(json.dumps(result.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    publish({**staged, staging / REPORT: out / REPORT, staging / RESULT: out / RESULT})
