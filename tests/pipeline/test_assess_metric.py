"""What was computed for the validation samples is not computed again: for metrics, and of constants."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import edgewright as ew
from edgewright.errors import LoweringError
from edgewright.pipeline import assess_metric as module
from edgewright.pipeline.deliver import Delivery
from edgewright.pipeline.metric import Metric, MetricInput
from edgewright.pipeline.predictor import Arrays, Recall, run_program
from edgewright.pipeline.subject import Subject
from tests.small_models import Mlp

SAMPLES = [{"x": np.full((1, 2), number, np.float32)} for number in range(3)]
OUTPUTS: list[Arrays] = [{"y": sample["x"] * 10} for sample in SAMPLES]
SUBJECT = cast(Subject, SimpleNamespace(metric_original=1.0, metric_compressed=0.9, validation=SAMPLES, swap=None))
Predict = Callable[[Mapping[str, Any]], Arrays]


def metric_of(monkeypatch: pytest.MonkeyPatch, function: Callable[[Predict], float]) -> Metric:
    users = ModuleType("metric_of_test")
    users.function = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "metric_of_test", users)
    return Metric("metric_of_test:function", (MetricInput("x", ("batch", 2), "float32"),), ())


def total_of_all(predict: Predict) -> float:
    return float(predict({"x": np.concatenate([sample["x"] for sample in SAMPLES])})["y"].sum())


def total_of_others(predict: Predict) -> float:
    return float(predict({"x": np.full((2, 2), 7, np.float32)})["y"].sum())


def test_known_samples_are_not_run_again_and_others_are() -> None:
    ran = []

    def run(inputs: Mapping[str, Any]) -> Arrays:
        ran.append(inputs)
        return {"y": inputs["x"] * 10}

    recall = Recall(run, SAMPLES, OUTPUTS)
    first = recall(SAMPLES[2])
    first["y"] += 1  # the user's own copy
    assert np.array_equal(recall(SAMPLES[2])["y"], OUTPUTS[2]["y"])
    assert (ran, recall.missed) == ([], False)
    assert np.array_equal(recall({"x": np.full((1, 2), 5, np.float32)})["y"], [[50, 50]])
    assert (len(ran), recall.missed) == (1, True)


def test_a_metric_of_the_validation_samples_is_taken_from_the_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = module.assess_metric(metric_of(monkeypatch, total_of_all), SUBJECT, None, OUTPUTS, tmp_path)
    assert found is not None
    assert (found.original, found.compressed, found.artifact) == (1.0, 0.9, 60.0)
    assert list(tmp_path.iterdir()) == []


def test_a_metric_that_asks_for_more_runs_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Delivery("onnx", "p.pt2", (), (), "artifact", "s.npz")
    (tmp_path / "job.json").write_text(json.dumps({"kind": "deliver", "arguments": asdict(job)}))
    asked = []

    def run_job(kind: str, arguments: Delivery, folder: Path, timeout_s: float) -> dict[str, Any]:
        asked.append((kind, arguments.artifact, arguments.metric))
        return {"metric": 0.8}

    monkeypatch.setattr(module, "run_job", run_job)
    metric = metric_of(monkeypatch, total_of_others)
    found = module.assess_metric(metric, SUBJECT, None, OUTPUTS, tmp_path)
    assert found is not None
    assert found.artifact == 0.8
    assert asked == [("metric", "artifact", metric)]


def test_a_metric_that_fails_on_an_artifact_costs_its_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [{"y": output["y"] * np.nan} for output in OUTPUTS]
    with pytest.raises(LoweringError, match="finite number"):
        module.assess_metric(metric_of(monkeypatch, total_of_all), SUBJECT, None, broken, tmp_path)


def test_constants_computed_once_change_no_bit_and_leave_the_program_alone() -> None:
    torch.manual_seed(0)
    model, inputs = Mlp().eval(), torch.randn(1, 64)
    program = ew.capture(model, (inputs,))
    quantized = ew.compress(program, [{"pass": "quantize", "scheme": "w8a8"}], batches=[(inputs,)]).program
    before = quantized.digest()
    run = run_program(quantized)
    name = quantized.inputs[0].name
    expected = quantized.run({name: inputs})
    for output, value in run({name: inputs.numpy()}).items():
        assert np.array_equal(value, expected[output].numpy())
    assert quantized.digest() == before
