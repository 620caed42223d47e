"""The predict function that a metric gets, and the metric itself, alone and around a part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgewright.errors import ReleaseError
from edgewright.pipeline.metric import Metric, MetricInput, Swap, bind_inputs, metric_value, replace_module
from edgewright.pipeline.predictor import predictor, run_module
from tests.small_release import own_imports, reference_model, write_release


@dataclass(frozen=True)
class Port:
    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"


@pytest.fixture(autouse=True)
def users_code() -> Iterator[None]:
    with own_imports():
        yield


def test_predict_loops_over_the_batch_and_keeps_its_order() -> None:
    calls = []

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        calls.append({name: array.shape for name, array in inputs.items()})
        return {"y": inputs["x"] * 2 + inputs["table"].sum(), "table": inputs["table"]}

    rows, table = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([1, 2, 3])
    found = predictor(run, [Port("x", ("n", 2)), Port("table", (3,), "int64")])({"x": rows, "table": table})
    assert calls == [{"x": (1, 2), "table": (3,)}] * 3
    np.testing.assert_array_equal(found["y"], rows * 2 + 6)
    np.testing.assert_array_equal(found["table"], table)


def test_predict_without_a_batch_is_one_call() -> None:
    found = predictor(lambda inputs: {"y": inputs["x"] + 1}, [Port("x", (2, 2))])({"x": np.zeros((2, 2), np.float32)})
    np.testing.assert_array_equal(found["y"], np.ones((2, 2)))


def test_predict_takes_the_numbers_that_numpy_makes_by_default() -> None:
    """float64 becomes the input's float32, lists become arrays; a float for an integer stays an error."""
    seen = []
    ports = [Port("x", ("n", 2)), Port("k", ("n",), "int64")]
    predict = predictor(lambda inputs: seen.append(inputs) or {"y": inputs["x"]}, ports)
    predict({"x": np.ones((1, 2)), "k": [3]})
    assert [seen[0][name].dtype for name in ("x", "k")] == [np.float32, np.int64]
    with pytest.raises(TypeError, match="same_kind"):
        predict({"x": np.ones((1, 2)), "k": np.array([0.5])})


def metric_of(folder: Path, body: str) -> tuple[Metric, str]:
    release = write_release(folder, code=f"\n\ndef mine(predict):\n    {body}\n")
    return Metric(f"{release.task}:mine", (MetricInput("x", ("batch", 16), "float32"),), (str(folder),)), release.task


def echo(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits": inputs["x"]}


def test_a_metric_is_called_with_predict_and_gives_a_float(tmp_path: Path) -> None:
    metric, _ = metric_of(tmp_path, "return predict({'x': np.full((3, 16), 2)})['logits'].sum()")
    assert metric_value(metric, echo) == 96.0


def test_a_metric_from_a_job_is_the_same_metric(tmp_path: Path) -> None:
    import dataclasses
    import json

    metric, _ = metric_of(tmp_path, "return 1")
    assert Metric.of(json.loads(json.dumps(dataclasses.asdict(metric)))) == metric
    assert Metric.of(None) is None


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "None", "'0.9'", "np.ones(3)"])
def test_a_metric_that_is_no_finite_number_is_refused(value: str, tmp_path: Path) -> None:
    metric, task = metric_of(tmp_path, f"return {value}")
    with pytest.raises(ReleaseError, match="has to return a finite number") as caught:
        metric_value(metric, echo)
    assert f"{task}:mine" in str(caught.value)


def test_a_metric_that_raises_is_told_with_the_users_line(tmp_path: Path) -> None:
    metric, task = metric_of(tmp_path, "return predict({'y': 1})")
    with pytest.raises(ReleaseError) as caught:
        metric_value(metric, echo)
    assert f"{task}:mine raised an error\n  got: KeyError: 'x'" in str(caught.value)
    assert f"{task}.py:" in str(caught.value)
    assert "in mine: return predict({'y': 1})" in str(caught.value)


class Pair(nn.Module):
    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        return {"sum": left + scale * right, "left": left}


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"pair": Pair()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.inner["pair"](x, right=x + 1, scale=2.0)
        return {"y": found["sum"] - found["left"]}


def test_a_replaced_module_computes_what_run_gives_and_the_rest_stays() -> None:
    seen = []

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(sorted(inputs))
        return {"sum": inputs["left"] * 0 + 7, "left": inputs["left"]}

    model = replace_module(Whole(), "inner.pair", run)
    found = run_module(model)({"x": np.array([1.0, 2.0], np.float32)})
    assert seen == [["left", "right"]]
    np.testing.assert_array_equal(found["y"], [6.0, 5.0])


def test_the_inputs_of_a_call_are_named_as_in_forward() -> None:
    bound = bind_inputs(Pair(), (torch.zeros(1),), {"right": torch.ones(1), "scale": 2.0})
    assert list(bound) == ["left", "right"]


def test_the_metric_of_a_part_is_the_tasks_metric_with_the_part_swapped_in(tmp_path: Path) -> None:
    release = write_release(tmp_path)
    metric = Metric(f"{release.task}:answers", (MetricInput("x", ("batch", 16), "float32"),), (str(tmp_path),))
    swap = Swap(f"{release.task}:build", str(tmp_path / "weights.safetensors"), "text")
    model = reference_model(tmp_path, release.task)
    own = run_module(model.get_submodule("text"))
    whole = metric_value(metric, run_module(model))
    assert metric_value(metric, lambda x: own(x), swap) == pytest.approx(whole, rel=1e-6)
    silent = metric_value(metric, lambda x: {name: value * 0 for name, value in own(x).items()}, swap)
    model.text[2].weight.data.zero_()
    model.text[2].bias.data.zero_()
    assert silent == pytest.approx(metric_value(metric, run_module(model)), rel=1e-6)
    assert silent != pytest.approx(whole, rel=1e-3)
