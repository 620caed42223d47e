"""What a device profile holds: facts about one device, every figure with its source.

A profile is a TOML file; these models say which keys it has. Nothing here decides anything: `predict.py`
does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from edgewright.errors import did_you_mean
from edgewright.targets import TARGETS, target_names

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _known(name: str) -> str:
    if name not in TARGETS and name not in target_names():  # the latter reads the metadata of all distributions
        raise ValueError(f"no such target: {name!r} ({did_you_mean(name, target_names())})")
    return name


TargetName = Annotated[str, AfterValidator(_known)]
Unit = Literal["cpu", "ane", "npu", "tpu"]
Dtype = Literal["float32", "float16", "bfloat16", "int8"]
Feature = Literal[
    "neon", "fp16", "bf16", "dotprod", "i8mm", "sve", "sme",
    "sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "vnni", "avx512_bf16", "avx512_fp16", "amx_bf16",
    "amx_int8",
]  # fmt: skip


class Record(BaseModel):
    """A part of a profile: unknown keys are errors, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(Record):
    """A positive number and where it comes from.

    `source` names a public document or measurement; one that starts with "derived:", "estimate:", "fit:",
    "measured:" or "detected" says how the number was made from others.
    """

    value: float = Field(gt=0, strict=True, allow_inf_nan=False)
    source: Text


class Factor(Figure):
    """A figure that an expectation is divided and multiplied by."""

    value: float = Field(ge=1, strict=True, allow_inf_nan=False)


class Isa(Record):
    """What the processor's instruction set offers to kernels."""

    features: tuple[Feature, ...]
    source: Text


class CoreSet(Record):
    """Cores of one kind; flops_per_cycle is of one core in float32 (a fused multiply-add counts as two)."""

    name: Text
    count: int = Field(gt=0, strict=True)
    ghz: Figure | None = None
    flops_per_cycle: Figure | None = None
    source: Text


class Memory(Record):
    """app_budget_mb: what one app may take before the system ends it. Megabytes are 10**6 bytes."""

    ram_mb: Figure
    app_budget_mb: Figure
    bandwidth_gbps: Figure | None = None


class Throughput(Record):
    """Nominal peak in GMAC/s: of ONE fastest core for the CPU, of the whole unit for anything else."""

    unit: Unit
    dtype: Dtype
    peak_gmacs: Figure


class Scaling(Record):
    """How many times faster `threads` CPU threads are than one, by what bounds an operation.

    n threads gain compute ** (log n / log threads), and no more beyond `threads`.
    """

    threads: int = Field(gt=1, strict=True)
    compute: Figure
    bytes: Figure


class Kernel(Record):
    """How much of the hardware a runtime reaches on one compute unit, for some compute dtypes.

    Args:
        dtypes: compute dtypes of a file that run so; an NPU that runs float32 files in float16 lists both.
        peak: the row of `throughput`, by dtype, that `efficiency` is a share of.
        efficiency: share of that peak on dense convolutions and matrix products, one thread.
        gbps: effective rate at which activations pass through an operation, caches included, one thread.
        weight_gbps: effective rate at which weights are read.
        op_us: fixed cost of one operation.
        request_us: fixed cost of an inference that uses the unit at all.
        scaling: what more threads gain; None for a unit that has none.
        spread: published latencies lie within expected / spread .. expected * spread.
    """

    unit: Unit
    dtypes: tuple[Dtype, ...] = Field(min_length=1)
    peak: Dtype
    efficiency: Figure
    gbps: Figure
    weight_gbps: Figure
    op_us: Figure
    request_us: Figure | None = None
    scaling: Scaling | None = None
    spread: Factor


class Limit(Record):
    """The newest format that the listed versions open: ONNX opset, Core ML spec, TFLite schema or IR."""

    name: Literal["opset", "spec", "schema", "ir"]
    value: int = Field(gt=0, strict=True)
    source: Text


class MemoryModel(Record):
    """Peak memory = base_mb + weights * weight_copies + peak activations * activation_copies.

    Args:
        base_mb: what the runtime itself takes, open and idle.
        weight_copies: the file's constants in memory, packed copies included.
        activation_copies: arena against the largest sum of live activations.
        spread: measured peaks lie within expected / spread .. expected * spread.
    """

    base_mb: Figure
    weight_copies: Figure
    activation_copies: Figure
    spread: Factor


class Carried(Record):
    """A version of a runtime that the device is known to run, by the name under which pip installs it elsewhere."""

    pin: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+==[0-9][A-Za-z0-9.]*$")]
    source: Text


class Runtime(Record):
    """A runtime that the device carries, as an app would use it.

    Args:
        versions: those that the figures hold for.
        carries: exact versions known to run there, for packages to be verified in; empty where no source names one.
        format, memory: None only on the host, for targets from entry points: there they are measured, not predicted.
        units: compute units in the order in which the runtime tries them.
        delegate: its name for what drives the first unit.
        threads: CPU threads where the caller says none.
        kernels: what the predictor needs; none on the host.
    """

    target: TargetName
    runtime: Text
    versions: tuple[Text, ...] = Field(min_length=1)
    format: Limit | None = None
    units: tuple[Unit, ...] = Field(min_length=1)
    delegate: Text
    threads: int = Field(gt=0, strict=True)
    memory: MemoryModel | None = None
    kernels: tuple[Kernel, ...] = ()
    carries: tuple[Carried, ...] = ()


class Anchor(Record):
    """A published latency that the figures of this profile are fitted to.

    Args:
        compute: the dtype of the file's arithmetic.
        threads: CPU threads; None for other units.
        measured_on: the device that it was measured on, where that is a stand-in for this one.
    """

    target: TargetName
    runtime: Text
    unit: Unit
    compute: Dtype
    threads: int | None = Field(default=None, gt=0, strict=True)
    model: Text
    latency_ms: float = Field(gt=0, strict=True, allow_inf_nan=False)
    measured_on: Text | None = None
    source: Text


class StandIn(Record):
    """A device with the same or a similar unit: its latency times `factor` is taken for this device's."""

    device: Text
    factor: Figure


class Calibration(Record):
    """The evidence behind the kernels; no figure is fitted to `checks`, which judge the profile."""

    stand_ins: tuple[StandIn, ...] = ()
    anchors: tuple[Anchor, ...] = ()
    checks: tuple[Anchor, ...] = ()


class DeviceProfile(Record):
    """One device. `is_host` is true for the machine that edgewright runs on: it is measured, never
    predicted."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    name: Text
    soc: Text
    isa: Isa
    core_sets: tuple[CoreSet, ...] = Field(min_length=1)
    memory: Memory
    throughput: tuple[Throughput, ...] = ()
    runtimes: tuple[Runtime, ...]
    calibration: Calibration = Calibration()
    is_host: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(runtime.target for runtime in self.runtimes)

    def peak_gmacs(self, unit: str, dtype: str) -> float | None:
        rows = (row for row in self.throughput if row.unit == unit and row.dtype == dtype)
        return next((row.peak_gmacs.value for row in rows), None)

    def anchors_of(self, target: str) -> tuple[Anchor, ...]:
        """The measurements behind a target's figures; with fewer than three, a missed budget only warns."""
        return tuple(anchor for anchor in self.calibration.anchors if anchor.target == target)

    def factor_of(self, anchor: Anchor) -> float:
        """What an anchor's latency is multiplied by to stand for this device."""
        factors = {stand_in.device: stand_in.factor.value for stand_in in self.calibration.stand_ins}
        return 1.0 if anchor.measured_on is None else factors[anchor.measured_on]

    @model_validator(mode="after")
    def _is_whole(self) -> DeviceProfile:
        """Refuse what no single key shows, such as a kernel without its peak."""
        problems: list[str] = []
        if len(set(self.targets)) != len(self.targets):
            problems.append("two runtimes have the same target")
        known = {stand_in.device for stand_in in self.calibration.stand_ins}
        rows = (*self.calibration.anchors, *self.calibration.checks)
        asked = {row.measured_on for row in rows if row.measured_on is not None}
        problems += [f"no stand_ins entry for {device!r}" for device in sorted(asked - known)]
        for runtime in self.runtimes:
            problems += [f"runtime {runtime.target!r}: {problem}" for problem in self._gaps(runtime)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _gaps(self, runtime: Runtime) -> list[str]:
        gaps = [
            f"kernel {kernel.unit}/{kernel.peak} has no row in throughput"
            for kernel in runtime.kernels
            if self.peak_gmacs(kernel.unit, kernel.peak) is None
        ]
        if not self.is_host and not any("float32" in kernel.dtypes for kernel in runtime.kernels):
            gaps.append("no kernel runs float32, which every other dtype falls back to")
        if not self.is_host and (runtime.format is None or runtime.memory is None):
            gaps.append("format or memory is missing, which only the host can do without")
        return gaps
