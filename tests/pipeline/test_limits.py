"""Limits: what passes, what misses, what a prediction leaves open; and what an export then releases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.device_profiles import load_profile
from edgewright.device_profiles.predict import predict_latency_ms
from edgewright.pipeline.inspection import inspect_path
from edgewright.pipeline.limits import describe, lower_limit, status_of, upper_limit
from edgewright.pipeline.results import Figure
from tests.small_release import contents, deliver, delivery_of, package_of, run_command, staging_left, write_release


def predicted(low: float, value: float, high: float) -> Figure:
    return Figure(value=value, low=low, high=high, provenance="predicted")


@pytest.mark.parametrize(
    ("figure", "outcome"),
    [
        (Figure(value=5.0, provenance="file"), "passed"),
        (Figure(value=5.1, provenance="file"), "missed"),
        (predicted(1, 3, 5), "passed"),
        (predicted(4, 5, 6), "undecided"),
        (predicted(5, 6, 7), "undecided"),
        (predicted(5.1, 6, 7), "missed"),
    ],
)
def test_an_upper_limit_of_five(figure: Figure, outcome: str) -> None:
    check = upper_limit("size", "MB", figure, 5.0, "prune")
    assert check.outcome == outcome
    assert check.margin == pytest.approx(5.0 - figure.value)
    assert check.advice == ("" if outcome == "passed" else "prune")


@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=3).map(sorted), st.floats(0.1, 100))
def test_a_prediction_is_decided_exactly_when_the_limit_is_outside_of_its_interval(
    interval: list[float], limit: float
) -> None:
    low, value, high = interval
    outcome = upper_limit("latency", "ms", predicted(low, value, high), limit, "").outcome
    assert (outcome == "undecided") == (low <= limit < high)


def test_a_lower_limit_is_reached_from_above() -> None:
    assert lower_limit("share", "", Figure(value=0.95, provenance="file"), 0.95, "").outcome == "passed"
    assert lower_limit("share", "", Figure(value=0.94, provenance="file"), 0.95, "").outcome == "missed"
    assert lower_limit("share", "", Figure(value=float("nan"), provenance="file"), 0.95, "").outcome == "missed"


def test_strict_turns_undecided_into_missed_and_nothing_else() -> None:
    passed = upper_limit("size", "MB", Figure(value=1, provenance="file"), 2, "")
    undecided = upper_limit("latency", "ms", predicted(1, 2, 3), 2, "")
    missed = upper_limit("size", "MB", Figure(value=3, provenance="file"), 2, "")
    assert [status_of(checks, strict=False) for checks in ([], [passed], [undecided, passed], [missed, undecided])] == [
        "passed",
        "passed",
        "undecided",
        "missed",
    ]
    assert [status_of(checks, strict=True) for checks in ([passed], [undecided, passed])] == ["passed", "missed"]


def test_a_miss_is_told_with_figure_limit_margin_and_advice() -> None:
    text = describe(upper_limit("latency", "ms", predicted(6, 8, 10), 5.0, "a smaller model"))
    assert text == ("latency missed: 8 [6 to 10] ms (predicted), limit 5 ms, margin -3; a smaller model")


@pytest.fixture(scope="module")
def middle_ms() -> float:
    """The expected latency on a Raspberry Pi: as a limit it is inside of the interval."""
    interval = predict_latency_ms(inspect_path(package_of("onnx")), load_profile("raspberry-pi-5"), "onnx")
    assert interval.low < interval.expected < interval.high
    return interval.expected


@pytest.mark.slow
def test_a_missed_size_costs_that_delivery_its_package_and_no_other(
    tmp_path: Path, middle_ms: float, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_release(
        tmp_path / "release",
        deliveries=deliver(name="small", size_mb=0.001) + deliver(name="open", latency_ms=middle_ms),
    )
    out = tmp_path / "out"
    (out / "small").mkdir(parents=True)
    (out / "small" / "older").write_text("older")
    assert run_command("export", release.file, "--out", out) == 1
    printed = " ".join(capsys.readouterr().out.split())
    small = delivery_of(out, "small")
    figure = f"{small['size_bytes'] / 1e6:.4g} MB (file), limit 0.001 MB, margin -"
    assert f"missed small: size missed: {figure}" in printed
    assert figure in small["reason"]
    assert (small["status"], small["package"]) == ("missed", None)
    assert not (out / "small.zip").exists()
    assert contents(out / "small").keys() == {"older"}, "the older package stays as it was"
    assert (delivery_of(out, "open")["status"], delivery_of(out, "open")["package"]) == ("undecided", "open.zip")
    assert (out / "open.zip").is_file()
    assert staging_left(out) == []


@pytest.mark.slow
def test_an_undecided_prediction_ships_with_its_reason_and_strict_stops_it(
    tmp_path: Path, middle_ms: float, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_release(tmp_path / "release", deliveries=deliver(name="open", latency_ms=middle_ms))
    assert run_command("export", release.file, "--out", tmp_path / "lenient") == 0
    found = delivery_of(tmp_path / "lenient", "open")
    assert found["status"] == "undecided"
    assert found["reason"].startswith("latency undecided:")
    assert (tmp_path / "lenient" / "open.zip").is_file()
    assert run_command("export", release.file, "--out", tmp_path / "strict", "--strict") == 1
    found = delivery_of(tmp_path / "strict", "open")
    assert (found["status"], found["package"]) == ("missed", None)
    assert not (tmp_path / "strict" / "open.zip").exists()
    assert "undecided: " in capsys.readouterr().out


@pytest.mark.slow
def test_a_metric_drop_beyond_max_drop_is_a_miss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quality = 'metric = "{task}:closeness"\nmax_drop = 0.0\nmin_sqnr_db = 90\n'
    code = """

def closeness(predict):
    import pathlib
    logits = predict({"x": _draw(20, 3)})["logits"]
    exact = build()
    import safetensors.torch
    exact.load_state_dict(safetensors.torch.load_file(pathlib.Path(__file__).with_name("weights.safetensors")))
    with torch.no_grad():
        wanted = exact(torch.from_numpy(_draw(20, 3)))["logits"].numpy()
    return -float(np.abs(logits - wanted).mean())
"""
    release = write_release(tmp_path / "release", quality=quality, code=code)
    assert run_command("export", release.file, "--out", tmp_path / "out") == 1
    capsys.readouterr()
    found = delivery_of(tmp_path / "out", "raspberry-pi-5-onnx")
    metric = found["metric"]
    assert metric["original"] == pytest.approx(0.0, abs=1e-6)
    assert metric["artifact"] < metric["original"]
    assert (found["status"], found["package"]) == ("missed", None)
    drop = metric["original"] - metric["artifact"]
    assert f"metric drop missed: {drop:.4g} closeness" in found["reason"]
    assert "least SQNR missed:" in found["reason"]
    assert "limit 90 dB" in found["reason"]
    assert json.loads((tmp_path / "out" / "release.json").read_text())["deliveries"][0]["status"] == "missed"
