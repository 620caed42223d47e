"""What an export found out, as release.json holds it. Its JSON Schema is published beside it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Provenance = Literal["measured-on-device", "measured-on-host", "predicted", "reference", "file", "executed"]
Outcome = Literal["passed", "missed", "undecided"]
Status = Literal["passed", "missed", "undecided", "failed", "refused"]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_serialization_defaults_required=True)


class Figure(Record):
    """One number with how it was got. A prediction has an interval; `low` and `high` are None otherwise."""

    value: float
    provenance: Provenance
    low: float | None = None
    high: float | None = None


class Comparison(Record):
    """Signal-to-quantization-noise ratio of outputs against a reference, in dB (200: identical)."""

    sqnr_db: float
    outputs: dict[str, float]


class MetricResult(Record):
    """The user's metric (higher is better) of the original, of the compressed graph and of the artifact."""

    name: str
    original: float
    compressed: float
    artifact: float

    @property
    def drop(self) -> float:
        return self.original - self.artifact


class Check(Record):
    """One limit: what it bounds, the figure, the limit, and how it came out.

    `margin` is what is left (negative: by how much it was missed), in the unit of the figure. `advice` says what to
    try after a miss.
    """

    name: str
    unit: str
    figure: Figure
    limit: float
    outcome: Outcome
    margin: float
    advice: str = ""


class SizeResult(Record):
    """The same comparisons at one combination of sizes of the open dimensions.

    `cut` says that samples were cut from longer ones.
    """

    sizes: dict[str, int]
    samples: int
    cut: bool
    compression: Comparison
    lowering: Comparison
    end_to_end: Comparison


class RefusalRecord(Record):
    target: str
    node: str
    op: str
    reason: str
    way_out: str
    source: str = ""


class RuntimeRecord(Record):
    """A named version of a runtime that ran the test vectors, in an environment of its own on this machine.

    Args:
        asked: as it was named, such as "onnxruntime==1.17.3".
        runtime: as it calls itself; empty when it did not open the file.
        outputs: SQNR in dB of each output against the compressed graph; empty with a fault.
        floor_db: what each has to reach.
    """

    asked: str
    runtime: str
    outputs: dict[str, float]
    floor_db: float
    fault: str = ""
    provenance: Provenance = "measured-on-host"


class DriftLayer(Record):
    """A layer whose value in the runtime falls below what it reads.

    Args:
        node, module, op: the graph's name of it, the user's module, the operation.
        sqnr_db: against the reference, with all that came before.
        inputs_db: the least SQNR of what it reads (200: the reference's own).
        own_db, own_steps: given the reference's inputs: its SQNR, and its largest difference in quantization steps.
        faulty: whether it computes other numbers itself; None where that is not known.
    """

    node: str
    module: str
    op: str
    sqnr_db: float
    inputs_db: float
    own_db: float | None = None
    own_steps: float | None = None
    faulty: bool | None = None


class DriftResult(Record):
    """Where a delivery that missed a comparison drifts: the first layers, in the graph's order, and every value that
    was looked at (layer, dB).

    Args:
        same_db: the last outputs of the program with probes against those of the artifact.
    """

    layers: tuple[DriftLayer, ...] = ()
    curve: tuple[tuple[str, float], ...] = ()
    same_db: float | None = None
    notes: tuple[str, ...] = ()


class SlowOperation(Record):
    """A kind of operations that a quantized artifact pays for and its float32 form does not.

    Args:
        op: as the runtime calls it; several names where it has several kernels.
        extra_ms: of one inference, more than in the float32 form; None where the runtime times no operations.
        longest: the name of the one that takes longest, or of the first.
    """

    op: str
    count: int
    extra_ms: float | None
    longest: str
    why: str


class SpeedResult(Record):
    """A quantized artifact beside the float32 form of the same program on this host, taking turns.

    Args:
        speedup: float32's latency over the artifact's; below 1 the artifact is the slower one.
        slower_because: empty unless it is.
        fault: why there is no comparison.
    """

    speedup: Figure | None = None
    artifact_ms: Figure | None = None
    float32_ms: Figure | None = None
    slower_because: tuple[SlowOperation, ...] = ()
    fault: str = ""


class DeliveryResult(Record):
    """One delivery. `package` is None where no file was released: a limit was missed, or there is no artifact.

    Args (of note):
        part: the submodule that it holds, None for the whole model.
        latency_ms: "host_p50", "host_p90" (this machine) and "device" (predicted), as far as known.
        memory_bytes: "host_peak" and "device".
        low_precision_share: of multiply-accumulates, in 8 bits or fewer.
        minimum: the oldest runtime that opens the file, by name.
        speed: beside float32, where the release asks for it.
        verified_on: the runtimes that the release names under `verify_on`.
        drift: where it drifts, when a comparison with the original was missed.
        not_verified: sentences on what was not shown here.
    """

    name: str
    target: str
    device: str
    part: str | None = None
    status: Status
    package: str | None = None
    reason: str = ""
    runtime: str = ""
    format: str = ""
    size_bytes: int | None = None
    float32_bytes: int | None = None
    bytes_by_dtype: dict[str, int] = Field(default_factory=dict)
    compression: Comparison | None = None
    lowering: Comparison | None = None
    end_to_end: Comparison | None = None
    sizes: tuple[SizeResult, ...] = ()
    metric: MetricResult | None = None
    low_precision_share: Figure | None = None
    latency_ms: dict[str, Figure] = Field(default_factory=dict)
    memory_bytes: dict[str, Figure] = Field(default_factory=dict)
    speed: SpeedResult | None = None
    minimum: dict[str, str] = Field(default_factory=dict)
    verified_on: tuple[RuntimeRecord, ...] = ()
    checks: tuple[Check, ...] = ()
    drift: DriftResult | None = None
    refusals: tuple[RefusalRecord, ...] = ()
    not_verified: tuple[str, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)


class ChoiceRecord(Record):
    """What mixed precision chose for a weight or a module, its bytes, and what each scheme was expected to cost.

    `costs` are at the outputs; `ms` is predicted on the pass's device, empty without a limit of latency.
    """

    weight: str
    scheme: str
    bytes: int
    costs: dict[str, float]
    ms: dict[str, float] = Field(default_factory=dict)


class ModuleRecord(Record):
    """What a module got: how many layers of each scheme, and its bytes (before: in float32).

    `error_share` is the noise at the outputs when it alone is compressed, of the sum of all modules'. `part` is the
    exported submodule, None for the whole model.
    """

    part: str | None
    module: str
    schemes: dict[str, int]
    bytes: int
    float32_bytes: int
    error_share: float


class PassRecord(Record):
    """A pass of the recipe: what it did, which nodes it left alone and why, what it warns of (node, text) and chose.

    `missed` says which limit of its own it could not meet, and by how much; empty where it met all. `latency_ms` was
    predicted from the graph that it left, on `device` with `target`, where it has such a limit. `decided` says what the
    data decided where a setting leaves it open.
    """

    name: str
    settings: dict[str, str | int | float | bool]
    rewrites: int
    skips: tuple[tuple[str, str], ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()
    choices: tuple[ChoiceRecord, ...] = ()
    missed: str = ""
    latency_ms: Figure | None = None
    device: str | None = None
    target: str | None = None
    decided: tuple[str, ...] = ()


class ReleaseResult(Record):
    """Everything that `edgewright export` found out."""

    schema_version: Literal[1] = 1
    name: str
    edgewright: str
    source: str
    model_digest: str
    checkpoint_sha256: str | None = None
    calibration_sha256: str | None = None
    parameters: int
    float32_bytes: int
    recipe: tuple[PassRecord, ...] = ()
    modules: tuple[ModuleRecord, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    host: str = ""
    deliveries: tuple[DeliveryResult, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.missed_steps and all(delivery.status == "passed" for delivery in self.deliveries)

    @property
    def missed_steps(self) -> tuple[tuple[str, str], ...]:
        """The steps of the recipe that missed a limit of their own: name, and by how much."""
        return tuple((record.name, record.missed) for record in self.recipe if record.missed)
