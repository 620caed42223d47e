"""A quantized artifact beside its float32 form: who is faster is not asserted, what is said about it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgewright.pipeline.results import ReleaseResult
from edgewright.pipeline.speed import causes_by_inspection, causes_by_time, judge_speed
from edgewright.targets.base import Inspection, Operation
from edgewright.targets.findings import Island, LayoutChange
from edgewright.targets.timing import OperationTime
from tests.small_release import deliver, run_command, write_release

FLOAT = [
    OperationTime("conv", "FusedConv", 3.0),
    OperationTime("swish", "HardSwish", 0.2),
    OperationTime("fc", "Gemm", 1.0),
]
INTEGER = [
    OperationTime("conv_quant", "QLinearConv", 4.5),
    OperationTime("q", "QuantizeLinear", 0.5),
    OperationTime("dq", "DequantizeLinear", 0.4),
    OperationTime("swish", "HardSwish", 0.2),
    OperationTime("fc_quant", "QGemm", 0.3),
    OperationTime("pad", "Pad", 0.6),
    OperationTime("tiny", "Cast", 0.001),
]


def found(speedup: float, profile: list[OperationTime]) -> dict[str, Any]:
    def plain(entries: list[OperationTime]) -> list[dict[str, Any]]:
        return [{"name": entry.name, "op": entry.op, "ms": entry.ms} for entry in entries]

    profiles = {"profile": plain(profile), "float32_profile": plain(FLOAT if profile else [])}
    return {"speedup": speedup, "artifact_ms": 6.5, "float32_ms": 4.2, **profiles}


def test_the_costliest_kinds_are_named_first_with_what_they_cost_more_than_in_float32() -> None:
    causes = list(causes_by_time(INTEGER, FLOAT))
    assert [(cause.op, cause.extra_ms) for cause in causes] == [
        ("QLinearConv", 1.5),
        ("DequantizeLinear, QuantizeLinear", 0.9),
        ("Pad", 0.6),
    ]
    assert "FusedConv" in causes[0].why and "3 ms" in causes[0].why
    assert "converts" in causes[1].why
    assert causes[1].count == 2 and causes[1].longest == "q"
    assert "none of its kind" in causes[2].why


def test_what_became_faster_or_stayed_the_same_is_no_cause() -> None:
    named = {op for cause in causes_by_time(INTEGER, FLOAT) for op in cause.op.split(", ")}
    assert not named & {"QGemm", "HardSwish", "Cast"}


def inspection() -> Inspection:
    kinds = {"s": "HARD_SWISH", "c": "CONV_2D", "t": "TRANSPOSE", "q": "QUANTIZE"}
    operations = tuple(Operation(name, op, "float32") for name, op in kinds.items())
    return Inspection(
        "TFLite",
        operations,
        {},
        islands=(Island(("s",), {"HARD_SWISH": 1}, 1, 1),),
        layout_changes=(LayoutChange("t", "TRANSPOSE", 64, "it stands beside a convolution"),),
        left_delegate=("c",),
    )


def test_without_a_profile_the_inspection_names_what_costs() -> None:
    causes = {cause.op: cause.why for cause in causes_by_inspection(inspection())}
    assert set(causes) == {"HARD_SWISH", "CONV_2D", "TRANSPOSE", "QUANTIZE"}
    assert "delegate" in causes["CONV_2D"]
    assert "float" in causes["HARD_SWISH"]


def test_a_slower_artifact_is_reported_with_causes_and_a_faster_one_without() -> None:
    slower = judge_speed(found(0.65, INTEGER), inspection())
    assert slower.speedup is not None and slower.speedup.value == 0.65
    assert slower.speedup.provenance == "measured-on-host"
    assert slower.slower_because[0].op == "QLinearConv"
    untold = judge_speed(found(0.65, []), inspection())
    assert untold.slower_because and all(cause.extra_ms is None for cause in untold.slower_because)
    assert judge_speed(found(1.8, []), inspection()).slower_because == ()


@pytest.mark.slow
def test_an_export_that_asks_for_it_records_the_comparison_of_every_runtime_that_ran(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    path = write_release(tmp_path / "in", deliveries=deliver("onnx"), quality="compare_float32 = true\n").file
    assert run_command("export", path, "--out", tmp_path / "dist") == 0
    result = ReleaseResult.model_validate(json.loads((tmp_path / "dist" / "release.json").read_text()))
    speed = result.deliveries[0].speed
    assert speed is not None and not speed.fault, speed
    assert speed.speedup is not None and speed.artifact_ms is not None and speed.float32_ms is not None
    assert min(speed.speedup.value, speed.artifact_ms.value, speed.float32_ms.value) > 0
    assert "times the speed of float32" in (tmp_path / "dist" / "report.html").read_text()
