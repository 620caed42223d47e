"""Fit a profile's kernels to its anchors: least squares on the logarithm of latency, with weak priors.

The priors say what a kernel of its kind looks like before anything was measured; they matter where anchors
are few or of one family (detectors alone do not tell arithmetic from memory). Robust loss (soft L1 at 15 %).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from edgewright.device_profiles.predict import BYTES
from edgewright.device_profiles.schema import DeviceProfile, Figure, Kernel, Runtime, Scaling
from edgewright.targets.base import Operation

Vector = NDArray[np.float64]

NOISE = 0.15  # of one published latency, as a ratio: runs, runtime versions, boards

# name: (start, width of its logarithm).
# On a CPU op_us is no fit: it is too small beside the rest to be seen in whole networks.
CPU_FLOAT = {
    "efficiency": (0.8, 0.2),
    "gbps": (3.0, 1.0),
    "compute": (3.4, 0.15),
    "bytes": (1.7, 0.4),
}
CPU_INT8 = CPU_FLOAT | {"efficiency": (0.6, 0.25), "gbps": (1.5, 1.0)}
ACCELERATOR = {
    "efficiency": (0.5, 1.0), "gbps": (100.0, 1.0), "weight_gbps": (40.0, 0.7), "op_us": (1.5, 0.7),
    "request_us": (200.0, 0.7)
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One published latency, scaled to the profile's device, with what runs for it."""

    operations: tuple[Operation, ...]
    threads: int
    latency_ms: float


@dataclass(frozen=True)
class _Work:
    macs: Vector
    activations: Vector
    weights: Vector
    threads: int
    log_ms: float


def fit(kernel: Kernel, profile: DeviceProfile, rows: Sequence[Row]) -> Kernel:
    """The kernel with figures fitted to `rows`; those without a prior stay as they are."""
    peak = profile.peak_gmacs(kernel.unit, kernel.peak)
    assert peak is not None, "the schema asks for the peak of every kernel"
    priors = ACCELERATOR if kernel.unit != "cpu" else CPU_INT8 if kernel.peak == "int8" else CPU_FLOAT
    if kernel.scaling is None or len({row.threads for row in rows}) == 1:
        priors = {name: prior for name, prior in priors.items() if name not in ("compute", "bytes")}
    works = [_work(row, BYTES[kernel.peak]) for row in rows]
    start = np.array([log(value) for value, _ in priors.values()])
    width = np.array([sigma for _, sigma in priors.values()])
    fixed = _figures(kernel)

    def residuals(logs: Vector) -> Vector:
        figures = fixed | dict(zip(priors, np.exp(logs), strict=True))
        errors = [(_log_ms(work, figures, peak, kernel) - work.log_ms) / NOISE for work in works]
        robust = np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + np.square(errors)) - 1))
        return np.concatenate([robust, (logs - start) / width])

    found = least_squares(residuals, start, diff_step=1e-3)
    return _with(kernel, dict(zip(priors, np.exp(found.x), strict=True)), len(rows))


def log_ms(row: Row, kernel: Kernel, profile: DeviceProfile) -> float:
    """The logarithm of a row's latency by the kernel as it is."""
    peak = profile.peak_gmacs(kernel.unit, kernel.peak)
    assert peak is not None, "the schema asks for the peak of every kernel"
    return _log_ms(_work(row, BYTES[kernel.peak]), _figures(kernel), peak, kernel)


def _work(row: Row, size: int) -> _Work:
    widths = np.array([size / BYTES.get(operation.compute, size) for operation in row.operations])
    return _Work(
        np.array([operation.macs for operation in row.operations], float),
        np.array([operation.activation_bytes for operation in row.operations]) * widths,
        np.array([operation.weight_bytes for operation in row.operations]) * widths,
        row.threads,
        log(row.latency_ms),
    )


def _figures(kernel: Kernel) -> dict[str, float]:
    scaling = kernel.scaling
    return {
        "efficiency": kernel.efficiency.value,
        "gbps": kernel.gbps.value,
        "weight_gbps": kernel.weight_gbps.value,
        "op_us": kernel.op_us.value,
        "request_us": kernel.request_us.value if kernel.request_us else 0.0,
        "compute": scaling.compute.value if scaling else 1.0,
        "bytes": scaling.bytes.value if scaling else 1.0,
    }


def _log_ms(work: _Work, figures: dict[str, float], peak: float, kernel: Kernel) -> float:
    """The formula of edgewright.device_profiles.predict on arrays; a test holds the two together."""
    threads = kernel.scaling.threads if kernel.scaling else 1
    exponent = 0.0 if work.threads == 1 or threads == 1 else min(1.0, log(work.threads) / log(threads))
    arithmetic = work.macs / (figures["efficiency"] * peak * figures["compute"] ** exponent)
    moving = work.activations / (figures["gbps"] * figures["bytes"] ** exponent) + work.weights / figures["weight_gbps"]
    busy_us = np.maximum(arithmetic, moving).sum() / 1e3
    return log((busy_us + len(work.macs) * figures["op_us"] + figures["request_us"]) / 1e3)


def _with(kernel: Kernel, found: dict[str, float], count: int) -> Kernel:
    source = f"fit: bench/prediction.py --fit, {count} anchors of this profile"

    def figure(name: str) -> Figure:
        return Figure(value=float(f"{found[name]:.3g}"), source=source)

    changes: dict[str, object] = {name: figure(name) for name in found if name not in ("compute", "bytes")}
    if kernel.scaling is not None and "compute" in found:
        changes["scaling"] = Scaling(threads=kernel.scaling.threads, compute=figure("compute"), bytes=figure("bytes"))
    return kernel.model_copy(update=changes)


def replace_kernel(profile: DeviceProfile, runtime: Runtime, old: Kernel, new: Kernel) -> DeviceProfile:
    """The profile with one kernel of one runtime exchanged."""
    kernels = tuple(new if kernel is old else kernel for kernel in runtime.kernels)
    changed = runtime.model_copy(update={"kernels": kernels})
    runtimes = tuple(changed if row is runtime else row for row in profile.runtimes)
    return profile.model_copy(update={"runtimes": runtimes})
