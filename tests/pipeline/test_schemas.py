"""The published JSON Schemas: they are what the models say, and what we write fits them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edgewright.device_profiles.load import FOLDER as PROFILES
from edgewright.errors import EdgewrightError
from edgewright.pipeline.manifest import FileRecord, Manifest, Measurements, PortRecord, Vectors
from edgewright.pipeline.release import Preprocess
from edgewright.pipeline.results import (
    Check,
    Comparison,
    DeliveryResult,
    Figure,
    MetricResult,
    PassRecord,
    RefusalRecord,
    ReleaseResult,
)
from edgewright.pipeline.schemas import SCHEMAS, schema_file, schema_json

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

ROOT = Path(__file__).parents[2]
PREDICTED = Figure(value=1.5, provenance="predicted", low=1.0, high=2.5)
CLOSE = Comparison(sqnr_db=36.3, outputs={"logits": 36.3})
PASS = PassRecord(
    name="quantize-static",
    settings={"observer": "minmax"},
    rewrites=3,
    skips=(("add_1", "no chain"),),
    warnings=(("relu", "1 of 4 channels (0) is constant in all calibration data"),),
)


def validator(name: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(schema_file(name).read_text(encoding="utf-8")))


def release_result() -> ReleaseResult:
    passed = DeliveryResult(
        name="pixel-8-tflite",
        target="tflite",
        device="pixel-8",
        status="passed",
        package="pixel-8-tflite.zip",
        size_bytes=1000,
        compression=CLOSE,
        lowering=CLOSE,
        end_to_end=CLOSE,
        metric=MetricResult(name="data:accuracy", original=0.99, compressed=0.98, artifact=0.98),
        low_precision_share=Figure(value=1.0, provenance="file"),
        latency_ms={"device": PREDICTED},
        checks=(Check(name="latency", unit="ms", figure=PREDICTED, limit=5, outcome="passed", margin=3.5),),
        seconds={"lower": 1.0},
    )
    refusal = RefusalRecord(target="onnx", node="", op="", reason="too large", way_out="split it")
    refused = DeliveryResult(name="host-onnx", target="onnx", device="host", status="refused", refusals=(refusal,))
    return ReleaseResult(
        name="small",
        edgewright="0.1.0",
        source="my.model:build",
        model_digest="0" * 64,
        parameters=10,
        float32_bytes=40,
        recipe=(PASS,),
        deliveries=(passed, refused),
    )


def manifest() -> Manifest:
    return Manifest(
        name="pixel-8-tflite",
        release="small",
        edgewright="0.1.0",
        target="tflite",
        device="pixel-8",
        format="TFLite schema 3",
        minimum={"tflite": "2.14"},
        artifact="artifact/model.tflite",
        inputs=(PortRecord(name="image", shape=(1, 1, 28, 28), dtype="float32", preprocess=Preprocess(mean=(0.3,))),),
        outputs=(PortRecord(name="logits", shape=(1, 10), dtype="float32"),),
        files={"artifact/model.tflite": FileRecord(sha256="0" * 64, bytes=1000)},
        vectors=Vectors(file="vectors.safetensors", samples=4, floor_db=60.0),
        model_digest="0" * 64,
        program_digest="1" * 64,
        source="my.model:build",
        recipe=(PASS,),
        release_file={"model": {"source": "my.model:build"}},
        versions={"torch": "2.13.0"},
        verified_in="ai-edge-litert 2.3.0",
        provenance="measured-on-host",
        compression=CLOSE,
        lowering=CLOSE,
        end_to_end=CLOSE,
        low_precision_share=Figure(value=1.0, provenance="file"),
        bytes_by_dtype={"int8": 900},
        measurements=Measurements(latency_ms={"host_p50": Figure(value=0.1, provenance="measured-on-host")}),
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_committed_schema_equals_the_generated_one(name: str) -> None:
    written = schema_file(name).read_text(encoding="utf-8")
    assert written == schema_json(name), "run python -m edgewright.pipeline.schemas"


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_a_json_schema_of_its_dialect(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_json(name)))


def test_release_json_fits_its_schema() -> None:
    validator("release").validate(release_result().model_dump(mode="json"))


def test_manifest_fits_its_schema() -> None:
    validator("manifest").validate(manifest().model_dump(mode="json"))


@pytest.mark.parametrize("file", sorted(PROFILES.glob("*.toml")), ids=lambda file: file.stem)
def test_shipped_device_profile_fits_its_schema(file: Path) -> None:
    validator("device").validate(tomllib.loads(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", sorted(ROOT.glob("examples/*/release.toml")), ids=lambda file: file.parent.name)
def test_release_file_of_an_example_fits_its_schema(file: Path) -> None:
    validator("release-file").validate(tomllib.loads(file.read_text(encoding="utf-8")))


def test_schema_refuses_unknown_keys_missing_keys_and_unknown_outcomes() -> None:
    whole = release_result().model_dump(mode="json")
    first, rest = whole["deliveries"][0], whole["deliveries"][1:]
    for wrong in (
        {**whole, "latency": 3},
        {key: value for key, value in whole.items() if key != "deliveries"},
        {**whole, "deliveries": [{**first, "status": "fine"}, *rest]},
    ):
        assert not validator("release").is_valid(wrong)


def test_unknown_schema_is_refused_with_the_near_name() -> None:
    with pytest.raises(EdgewrightError, match="did you mean 'manifest'"):
        schema_json("manifests")
