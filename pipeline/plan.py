"""Everything that can be refused before the work starts, checked at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgewright.device_profiles import load_profile
from edgewright.device_profiles.predict import runtime_of
from edgewright.device_profiles.schema import DeviceProfile, Runtime
from edgewright.errors import EdgewrightError, ReleaseError
from edgewright.pipeline.lowering import (
    open_size_refusals,
    refuse,
    refuse_integer_boundary,
    refuse_schemes,
)
from edgewright.pipeline.passes.base import Pass
from edgewright.pipeline.passes.runner import check_order
from edgewright.pipeline.predicted_latency import PredictedLatency
from edgewright.pipeline.recipe import build_passes, scheme_names
from edgewright.pipeline.release import DeliverSection, Release
from edgewright.pipeline.runtimes import Pin, find_pins, oldest_of
from edgewright.pipeline.shapes import OpenShapes
from edgewright.pipeline.sources import is_callable_name, load_callable
from edgewright.pipeline.unasked import refuse_settings, unasked_settings
from edgewright.targets import get_target, require_runtime, target_names
from edgewright.targets.base import Target


@dataclass(frozen=True)
class PlannedDelivery:
    """A delivery with its device and target found.

    Args:
        pins: versions of runtimes that its package is run in as well.
        minimum: the oldest runtime that its files have to open in; None leaves it to the target.
    """

    section: DeliverSection
    profile: DeviceProfile
    target: Target
    pins: tuple[Pin, ...] = ()
    minimum: str | None = None

    @property
    def label(self) -> str:
        return self.section.label


@dataclass(frozen=True)
class Plan:
    """`latency` answers passes that ask for it."""

    passes: tuple[Pass, ...]
    deliveries: tuple[PlannedDelivery, ...]
    latency: PredictedLatency


def make_plan(release: Release) -> Plan:
    """Find passes, devices, targets and callables.

    Raises:
        ReleaseError: all that is wrong, at once (a single problem keeps its own error).
    """
    problems: list[EdgewrightError] = []
    passes: tuple[Pass, ...] = ()
    deliveries = []
    with _collected(problems):
        known = {section.target for section in release.deliver} & set(target_names())  # others are refused below
        passes = build_passes(release.compress, unasked_settings(known))
        check_order(passes)
    latency = PredictedLatency(tuple((section.device, section.target) for section in release.deliver))
    with _collected(problems):
        latency.check(passes)
    for place, section in enumerate(release.deliver):
        with _collected(problems, f"deliver.{place}"):
            target = get_target(section.target)
            require_runtime(target)
            profile = load_profile(section.device)
            runtime = runtime_of(profile, section.target)
            pins = find_pins(_verify_on(section, runtime), target)
            minimum = section.minimum or oldest_of(pins, target)
            target = get_target(section.target, minimum)
            if passes:
                refuse_schemes(target, scheme_names(release.compress))
                refuse_settings(target, passes)
            refuse(open_size_refusals(OpenShapes.of(release.model.inputs, release.model.open_dims), target))
            if section.integer_boundary:
                refuse_integer_boundary(target)
            deliveries.append(PlannedDelivery(section, profile, target, pins, minimum))
    training = release.training
    with _collected(problems):
        _check_training(release, passes)
    names = [("model.source", release.model.source), ("quality.metric", release.quality.metric)]
    names += [("calibration.data", release.calibration.data if release.calibration else None)]
    names += [("validation.data", release.validation.data if release.validation else None)]
    if training:
        names += [("training.data", training.data), ("training.loss", training.loss)]
    for key, name in names:
        if name is not None and (is_callable_name(name) or key in ("quality.metric", "training.loss")):
            with _collected(problems):
                load_callable(name, key)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ReleaseError(
            f"the release cannot be carried out: {len(problems)} problems",
            got="".join("\n  - " + str(problem).replace("\n", "\n    ") for problem in problems),
        )
    return Plan(passes, tuple(deliveries), latency)


def _check_training(release: Release, passes: tuple[Pass, ...]) -> None:
    """[training] has a step to be used in, and a loss gets the outputs that it is meant for."""
    if release.training is None:
        return
    if passes and not any(step.name == "train-quantized" for step in passes):
        raise ReleaseError(
            "the release has [training], but no step trains", do="set training = true in the step that quantizes"
        )
    parts = [delivery.part for delivery in release.deliver if delivery.part]
    if release.training.loss and parts:
        raise ReleaseError(
            "a loss sees the outputs of the whole model, and parts are trained on their own",
            got=", ".join(parts),
            where="training.loss",
            do="leave the loss out: each part then learns from itself before quantization",
        )


def _verify_on(section: DeliverSection, runtime: Runtime) -> tuple[str, ...]:
    if section.verify_on != "device":
        return section.verify_on
    if not runtime.carries:
        raise ReleaseError(
            f"the profile of {section.device} names no version of {runtime.runtime} that can be installed here",
            got='verify_on = "device"',
            do="name the versions that your app ships with, or leave verify_on out",
        )
    return tuple(carried.pin for carried in runtime.carries)


@contextmanager
def _collected(problems: list[EdgewrightError], where: str | None = None) -> Iterator[None]:
    try:
        yield
    except EdgewrightError as error:
        if where is not None:
            error.args = (f"{where}: {error.args[0]}",)
        problems.append(error)
