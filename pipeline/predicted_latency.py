"""The predictor that passes with a limit of latency ask, and what is wrong with such a limit before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from edgewright.device_profiles import HOST, load_profile, profile_names
from edgewright.device_profiles.graph import inspect_program
from edgewright.device_profiles.predict import operations_ms, predict_latency_ms, runtime_of
from edgewright.errors import DeviceError, RecipeError
from edgewright.pipeline.passes.base import Pass, Prediction
from edgewright.pipeline.passes.quantize_progressively import QuantizeProgressively
from edgewright.pipeline.program import Program


@dataclass(frozen=True)
class PredictedLatency:
    """Called with a program, a device and a target; empty names stand for those of the only delivery that fits.

    Args:
        deliveries: (device, target) of each delivery of the release.
    """

    deliveries: tuple[tuple[str, str], ...] = ()

    def __call__(self, program: Program, device: str, target: str) -> Prediction:
        device, target = self.find(device, target)
        profile, inspection = load_profile(device), inspect_program(program, target)
        interval = predict_latency_ms(inspection, profile, target)
        nodes = operations_ms(inspection, profile, target)
        return Prediction(device, target, interval.low, interval.expected, interval.high, nodes)

    def check(self, passes: Iterable[Pass]) -> None:
        """Raise what a limit of latency of these passes would come to, hours later.

        Raises:
            DeviceError: an unknown device, one that does not carry the target's runtime, or without figures for
                integers there. RecipeError: it is not clear which device is meant.
        """
        for step in passes:
            if not isinstance(step, QuantizeProgressively) or step.latency_ms == inf:
                continue
            device, target = self.find(step.device, step.target)
            profile = load_profile(device)
            runtime = runtime_of(profile, target)
            if profile.is_host:
                raise DeviceError(
                    "latency on this host is measured, and a choice needs a prediction",
                    got=repr(device),
                    expected=_known(),
                )
            if not any("int8" in kernel.dtypes for kernel in runtime.kernels):
                able = [
                    one.target for one in profile.runtimes if any("int8" in kernel.dtypes for kernel in one.kernels)
                ]
                raise DeviceError(
                    f"{profile.name} has no figures for integers with {runtime.runtime}: no scheme is predicted to be "
                    "faster there",
                    got=f"target = {target!r}",
                    expected=" or ".join(able) or "another device",
                )

    def find(self, device: str, target: str) -> tuple[str, str]:
        """The device and the target that are meant."""
        fitting = {
            pair for pair in self.deliveries if pair[0] != HOST and device in ("", pair[0]) and target in ("", pair[1])
        }
        if len(fitting) == 1:
            return next(iter(fitting))
        if not device:
            raise RecipeError(
                "a limit of latency is one on a device",
                got="device is not named"
                + (f", and the release has {len(fitting)} deliveries that fit" if self.deliveries else ""),
                expected=_known(),
                do='add device = "..." and target = "..." to the step',
            )
        targets = load_profile(device).targets
        if not target and len(targets) != 1:
            raise RecipeError(
                "a limit of latency is one of a runtime on the device",
                got="target is not named",
                expected=" or ".join(targets),
                do='add target = "..." to the step',
            )
        return device, target or targets[0]


def _known() -> str:
    return "one of: " + ", ".join(name for name in profile_names() if name != HOST) + ", or your own profile's file"
