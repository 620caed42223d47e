"""manifest.json: what a package holds and how it was shown to be right. Its JSON Schema is published beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgewright.pipeline.release import Preprocess
from edgewright.pipeline.results import Comparison, Figure, MetricResult, PassRecord, Record, RuntimeRecord, SizeResult


class DimRecord(Record):
    """Bounds of an open dimension, both included; with `listed`, only the sizes in `sizes` run."""

    min: int
    max: int
    sizes: tuple[int, ...] = ()
    listed: bool = False


class FileRecord(Record):
    sha256: str
    bytes: int


class EncodingRecord(Record):
    """The integers that the file has in place of a float: real = scale * (stored - zero_point)."""

    dtype: str
    scale: float
    zero_point: int


class PortRecord(Record):
    """An input or output at the surface that an app programs against. A size that is a name is open: see `dims`."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    layout: str | None = None
    stored: EncodingRecord | None = None
    preprocess: Preprocess | None = None


class Vectors(Record):
    """Test vectors: tensors "<sample>/input/<name>" and "<sample>/output/<name>" (of the compressed graph).

    A runtime passes when every output comes within `floor_db` (SQNR over all samples).
    """

    file: str
    samples: int
    floor_db: float


class Measurements(Record):
    """Figures of this run; the one part of a manifest that differs between two equal builds."""

    latency_ms: dict[str, Figure] = Field(default_factory=dict)
    memory_bytes: dict[str, Figure] = Field(default_factory=dict)


class Manifest(Record):
    """A package.

    Args (of note):
        artifact: what the runtime opens, relative to the package.
        files: every file but the manifest itself.
    """

    schema_version: Literal[1] = 1
    name: str
    release: str
    edgewright: str
    target: str
    device: str
    part: str | None = None
    format: str
    minimum: dict[str, str]
    artifact: str
    inputs: tuple[PortRecord, ...]
    outputs: tuple[PortRecord, ...]
    dims: dict[str, DimRecord] = Field(default_factory=dict)
    files: dict[str, FileRecord]
    vectors: Vectors
    model_digest: str
    program_digest: str
    source: str
    checkpoint_sha256: str | None = None
    calibration_sha256: str | None = None
    recipe: tuple[PassRecord, ...] = ()
    release_file: dict[str, Any]
    versions: dict[str, str]
    verified_in: str
    provenance: str
    verified_on: tuple[RuntimeRecord, ...] = ()
    compression: Comparison
    lowering: Comparison
    end_to_end: Comparison
    metric: MetricResult | None = None
    sizes: tuple[SizeResult, ...] = ()
    low_precision_share: Figure
    bytes_by_dtype: dict[str, int]
    not_verified: tuple[str, ...] = ()
    measurements: Measurements
