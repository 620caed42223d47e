"""Latency and peak memory of a file on a device that is not here: a calibrated roofline, with its error.

Latency, for each operation that runs (workload.py; Williams 2009, "Roofline"; MobileNetV4, arXiv:2404.10518,
section 3):

    time = max(macs / (efficiency * peak * compute speed-up),
               activation bytes / (gbps * bytes speed-up) + weight bytes / weight_gbps) + op_us

and their sum plus request_us is `expected`. Peaks are nominal; efficiency, gbps, weight_gbps and op_us are
fitted to published anchors of the device and runtime (bench/prediction.py --fit). Depthwise and narrow layers
are slow because their intensity is low, so activation bytes bound them: no rule for them is needed. `low` and
`high` divide and multiply each part by the `spread` of its kernel: the error measured on models that the fit
has not seen. Bytes are counted in the dtype that the unit computes in, whatever the file stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from edgewright.device_profiles.schema import DeviceProfile, Kernel, Runtime
from edgewright.device_profiles.workload import executed
from edgewright.errors import DeviceError, did_you_mean
from edgewright.targets.base import Inspection, Operation

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}

# A dtype that no unit runs is computed in the next wider one that some unit runs.
_WIDER = {
    "int8": ("int8", "float16", "float32"),
    "uint8": ("int8", "float16", "float32"),
    "int4": ("int8", "float16", "float32"),
    "uint4": ("int8", "float16", "float32"),
    "int2": ("int8", "float16", "float32"),
    "uint2": ("int8", "float16", "float32"),
    "float16": ("float16", "float32"),
    "bfloat16": ("bfloat16", "float16", "float32"),
}


@dataclass(frozen=True)
class Interval:
    """A prediction: `low` <= `expected` <= `high`."""

    low: float
    expected: float
    high: float

    def __post_init__(self) -> None:
        assert self.low <= self.expected <= self.high, f"not an interval: {self}"


def predict_latency_ms(
    inspection: Inspection,
    profile: DeviceProfile,
    target: str,
    threads: int | None = None,
    unit: str | None = None,
) -> Interval:
    """Latency in ms of one inference, batch as in the file, warm.

    Args:
        inspection: of the artifact, by its target.
        target: "onnx", "coreml", "tflite" or "openvino".
        threads: CPU threads; None takes the profile's. Units other than the CPU ignore it.
        unit: the compute unit to try first, such as "cpu"; None takes the profile's order.
    Raises:
        DeviceError: the profile does not carry the runtime or the unit, or it is the host, which is to be
            measured.
    """
    kernels, timed = _timed(inspection, profile, target, threads, unit)
    spent: dict[int, float] = {}
    for _, index, us in timed:
        spent[index] = spent.get(index, 0.0) + us
    parts = [(us / 1e3, kernels[index].spread.value) for index, us in spent.items()]
    parts += _requests([kernels[index] for index in spent])
    return Interval(
        sum(ms / spread for ms, spread in parts),
        sum(ms for ms, _ in parts),
        sum(ms * spread for ms, spread in parts),
    )


def operations_ms(inspection: Inspection, profile: DeviceProfile, target: str) -> dict[str, float]:
    """The same by operation's name, each without its share of what using a unit costs at all."""
    found: dict[str, float] = {}
    for operation, _, us in _timed(inspection, profile, target)[1]:
        found[operation.name] = found.get(operation.name, 0.0) + us / 1e3
    return found


def _timed(
    inspection: Inspection, profile: DeviceProfile, target: str, threads: int | None = None, unit: str | None = None
) -> tuple[list[Kernel], list[tuple[Operation, int, float]]]:
    """The kernels, and each operation that runs with its kernel's place and its microseconds."""
    runtime = runtime_of(profile, target)
    if profile.is_host:
        raise DeviceError("latency on this host is measured, not predicted", where=profile.name, do="run the file here")
    if threads is not None and threads < 1:
        raise DeviceError("threads must be positive", got=threads, expected="at least 1")
    kernels = _kernels_in_order(runtime, profile, unit)
    timed = []
    for operation in executed(inspection.operations, target):
        index = _kernel_for(operation.compute, kernels)
        busy = _busy_us(operation, kernels[index], profile, threads or runtime.threads)
        timed.append((operation, index, busy + kernels[index].op_us.value))
    return kernels, timed


def _requests(used: list[Kernel]) -> list[tuple[float, float]]:
    """What using a unit costs at all, once each: a stray float operation in an int8 file is no request."""
    costs: dict[str, tuple[float, float]] = {}
    for kernel in used:
        if kernel.request_us is not None:
            cost = (kernel.request_us.value / 1e3, kernel.spread.value)
            costs[kernel.unit] = min(cost, costs.get(kernel.unit, cost))
    return list(costs.values())


def predict_peak_bytes(inspection: Inspection, profile: DeviceProfile, target: str) -> Interval:
    """Peak memory in bytes of a process that opens and runs the file, over what it held before.

    peak = base + weight_copies * stored constants + activation_copies * peak activations: a runtime keeps the
    file and its own packed copy of the weights, and an arena for activations (the sources are in the
    profile).

    Raises:
        DeviceError: the profile does not carry the runtime, or has no memory model for it.
    """
    memory = runtime_of(profile, target).memory
    if memory is None:
        raise DeviceError(
            f"{profile.name} has no memory model for {target}", where=profile.name, do="run the file here"
        )
    weights = sum(inspection.bytes_by_dtype.values())
    expected = (
        memory.base_mb.value * 1e6
        + memory.weight_copies.value * weights
        + memory.activation_copies.value * inspection.peak_activation_bytes
    )
    return Interval(expected / memory.spread.value, expected, expected * memory.spread.value)


def runtime_of(profile: DeviceProfile, target: str) -> Runtime:
    """The runtime with which a device runs a target's files."""
    for runtime in profile.runtimes:
        if runtime.target == target:
            return runtime
    raise DeviceError(
        f"{profile.name} carries no runtime for target {target!r}",
        got=repr(target),
        expected="one of: " + (", ".join(sorted(profile.targets)) or "none is installed here"),
        where=f"device profile {profile.id!r}",
        do="deliver one of those, or write a profile of your own (docs/devices.md)",
    )


def _kernels_in_order(runtime: Runtime, profile: DeviceProfile, unit: str | None) -> list[Kernel]:
    """Kernels by the order in which the runtime tries their units, or `unit` first."""
    known = {kernel.unit for kernel in runtime.kernels}
    if unit is not None and unit not in known:
        raise DeviceError(
            f"{profile.name} has no figures for unit {unit!r} with {runtime.runtime}",
            got=repr(unit),
            expected=did_you_mean(unit, known),
        )
    first = [unit] if unit is not None else list(runtime.units)
    chain = [*first, "cpu"]
    return sorted((k for k in runtime.kernels if k.unit in chain), key=lambda kernel: chain.index(kernel.unit))


def _kernel_for(compute: str, kernels: list[Kernel]) -> int:
    """The first kernel that computes in a dtype, or in the next wider one.

    Integers and booleans have no arithmetic worth counting: they follow float32.
    """
    for dtype in _WIDER.get(compute, ("float32",)):
        for index, kernel in enumerate(kernels):
            if dtype in kernel.dtypes:
                return index
    return 0


def _busy_us(operation: Operation, kernel: Kernel, profile: DeviceProfile, threads: int) -> float:
    peak = profile.peak_gmacs(kernel.unit, kernel.peak)
    assert peak is not None, "the schema asks for the peak of every kernel"
    compute, reading = _speedup(kernel, threads)
    # A float32 file on a float16 unit moves half the bytes that the file states; an int8 one on a float unit
    # more.
    width = BYTES[kernel.peak] / BYTES.get(operation.compute, BYTES[kernel.peak])
    arithmetic = operation.macs / (kernel.efficiency.value * peak * compute)
    activations = width * operation.activation_bytes / (kernel.gbps.value * reading)
    weights = width * operation.weight_bytes / kernel.weight_gbps.value
    return max(arithmetic, activations + weights) / 1e3


def _speedup(kernel: Kernel, threads: int) -> tuple[float, float]:
    """What the threads gain in arithmetic and in moving activations."""
    scaling = kernel.scaling
    if scaling is None or threads == 1:
        return 1.0, 1.0
    exponent = min(1.0, log(threads) / log(scaling.threads))
    return scaling.compute.value**exponent, scaling.bytes.value**exponent
