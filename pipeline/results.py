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


class RefusalRecord(Record):
    target: str
    node: str
    op: str
    reason: str
    way_out: str
    source: str = ""


class DeliveryResult(Record):
    """One delivery. `package` is None where no file was released: a limit was missed, or there is no artifact.

    Args (of note):
        part: the submodule that it holds, None for the whole model.
        latency_ms: "host_p50", "host_p90" (this machine) and "device" (predicted), as far as known.
        memory_bytes: "host_peak" and "device".
        low_precision_share: of multiply-accumulates, in 8 bits or fewer.
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
    metric: MetricResult | None = None
    low_precision_share: Figure | None = None
    latency_ms: dict[str, Figure] = Field(default_factory=dict)
    memory_bytes: dict[str, Figure] = Field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    refusals: tuple[RefusalRecord, ...] = ()
    not_verified: tuple[str, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)


class PassRecord(Record):
    """A pass of the recipe: what it did, and which nodes it left alone and why."""

    name: str
    settings: dict[str, str | int | float | bool]
    rewrites: int
    skips: tuple[tuple[str, str], ...] = ()


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
    versions: dict[str, str] = Field(default_factory=dict)
    host: str = ""
    deliveries: tuple[DeliveryResult, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(delivery.status == "passed" for delivery in self.deliveries)
