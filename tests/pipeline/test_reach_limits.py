"""Quantization of no more modules than limits of predicted latency and of bytes ask for."""

from __future__ import annotations

import json
from itertools import combinations
from math import inf
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import edgewright as ew
from edgewright.errors import DeviceError, EdgewrightError, RecipeError
from edgewright.pipeline.breakdown import scheme_of
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.base import PassReport
from edgewright.pipeline.passes.graph import module_path
from edgewright.pipeline.passes.layer_weights import WEIGHTS
from edgewright.pipeline.passes.module_times import ModuleTimes, fastest, least_error
from edgewright.pipeline.passes.runner import Compressed
from edgewright.pipeline.predicted_latency import PredictedLatency
from edgewright.pipeline.program import Program
from tests.small_models import outputs
from tests.small_release import run_command

ON = {"device": "pixel-8", "target": "tflite"}
MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 48, 3, 2, 1), nn.ReLU(), nn.Conv2d(48, 48, 3, 1, 1)
    ).eval()

def data():
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        yield {"input": torch.randn(1, 1, 16, 16, generator=generator).numpy()}
"""
RELEASE = """
name = "small"
[model]
source = "latency_model:build"
[[model.inputs]]
name = "input"
shape = ["batch", 1, 16, 16]
[calibration]
data = "latency_model:data"
[[compress]]
pass = "quantize-progressively"
scheme = "w8a8"
{limit}
[[deliver]]
device = "pixel-8"
target = "onnx"
"""


class Net(nn.Module):
    """Layers that differ in arithmetic and in what rounding them costs; the fourth has an outlier in its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, 2, 1)
        self.third = nn.Conv2d(32, 32, 3, padding=1)
        self.fourth = nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Linear(32, 8)
        with torch.no_grad():
            self.fourth.weight[:, 0, 0, 0] = 4.0

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        x = torch.relu(x + self.third(x))
        return self.last(torch.relu(self.fourth(x)).mean((2, 3)))  # type: ignore[no-any-return]


def samples() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(1, 3, 24, 24, generator=generator)} for _ in range(4)]


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return ew.capture(Net().eval(), samples()[0])


def reach(program: Program, **settings: object) -> Compressed:
    step = {"pass": "quantize-progressively", "scheme": "w8a8", **settings}
    return ew.compress(program, [step], batches=samples())


def report_of(found: Compressed) -> PassReport:
    return found.reports[-1].report


def predicted_ms(program: Program) -> float:
    return PredictedLatency()(program, **ON).expected


def reached_db(program: Program, found: Compressed) -> float:
    return sqnr_db(outputs(program, samples()).numpy(), outputs(found.program, samples()).numpy())


TERMS = st.dictionaries(
    st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True).map(lambda places: tuple(sorted(places))),
    st.floats(-2, 1).map(lambda number: round(number, 3)),
    max_size=10,
)
FIGURES = st.lists(st.floats(0, 1).map(lambda number: round(number, 3)), min_size=5, max_size=5)


@settings(max_examples=60, deadline=None)
@given(errors=FIGURES, saved=FIGURES, terms=TERMS, limit=st.floats(-3, 6), least=st.floats(0, 3))
def test_the_choice_is_the_best_of_all(
    errors: list[float], saved: list[float], terms: dict[tuple[int, ...], float], limit: float, least: float
) -> None:
    times = ModuleTimes(5, 4.0, terms)
    every = [set(chosen) for count in range(6) for chosen in combinations(range(5), count)]

    def fits(chosen: set[int], slack: float) -> bool:
        enough = sum(saved[place] for place in chosen) >= least - slack
        return times.of(chosen) <= limit + slack and enough

    found = least_error(errors, times, limit, saved, least)
    costs = {
        slack: min((sum(errors[place] for place in chosen) for chosen in every if fits(chosen, slack)), default=inf)
        for slack in (1e-4, -1e-4)
    }
    if found is None:
        assert costs[-1e-4] == inf
    else:
        assert fits(set(found), 1e-4)
        assert costs[1e-4] - 1e-6 <= sum(errors[place] for place in found) <= costs[-1e-4] + 1e-6
    assert times.of(fastest(times)) == pytest.approx(min(map(times.of, every)), abs=1e-4)


def test_a_looser_limit_never_costs_more_error_and_every_limit_is_kept(program: Program) -> None:
    floats = predicted_ms(program)
    everything = ew.compress(program, [{"pass": "quantize", "scheme": "w8a8"}], batches=samples())
    integers = predicted_ms(everything.program)
    assert integers < floats / 2
    limits = [integers + part * (floats - integers) for part in (0.05, 0.3, 0.7, 1.01)]
    errors, quality = [], []
    for limit in limits:
        found = reach(program, latency_ms=limit, **ON)
        report = report_of(found)
        assert report.latency is not None and not report.missed
        assert predicted_ms(found.program) == pytest.approx(report.latency.expected)
        assert report.latency.expected <= limit
        assert report.latency.low < report.latency.expected < report.latency.high
        errors.append(sum(choice.costs[choice.scheme] for choice in report.choices))
        quality.append(reached_db(program, found))
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[2] > errors[3] == 0
    assert quality == sorted(quality)


def test_the_choice_is_better_than_the_first_modules_that_are_as_fast(program: Program) -> None:
    modules = ["first", "second", "third", "fourth", "last"]
    naive = ew.compress(
        program, [{"pass": "quantize", "scheme": "w8a8", "modules": "*|!fourth|!last"}], batches=samples()
    )
    found = reach(program, latency_ms=predicted_ms(naive.program), **ON)
    assert predicted_ms(found.program) <= predicted_ms(naive.program)
    assert reached_db(program, found) >= reached_db(program, naive)
    chosen = {choice.weight: choice.scheme for choice in report_of(found).choices}
    assert set(chosen) == set(modules)
    got = {module_path(node): scheme_of(found.program, node) for node in found.program.graph.nodes if is_layer(node)}
    assert got == chosen


def is_layer(node: torch.fx.Node) -> bool:
    return node.target in WEIGHTS


def test_each_module_has_its_milliseconds_in_both_schemes(program: Program) -> None:
    floats, report = predicted_ms(program), report_of(reach(program, latency_ms=1e-6, **ON))
    assert all(set(choice.ms) == {"fp32", "w8a8"} for choice in report.choices)
    assert sum(choice.ms["fp32"] for choice in report.choices) == pytest.approx(floats, rel=0.1)
    assert all(choice.ms["w8a8"] < choice.ms["fp32"] for choice in report.choices if choice.weight != "last")


def test_a_limit_that_nothing_keeps_leaves_the_fastest_and_says_what_blocks_it(program: Program) -> None:
    found = reach(program, latency_ms=0.001, **ON)
    report = report_of(found)
    assert report.rewrites == 5
    assert "limit 0.001 ms" in report.missed and "ms too much with 5 of 5 modules" in report.missed
    assert "most of it: fourth " in report.missed or "most of it: third " in report.missed


def test_what_is_fast_enough_in_float_stays_so(program: Program) -> None:
    found = reach(program, latency_ms=50, **ON)
    assert report_of(found).rewrites == 0
    assert {scheme_of(found.program, node) for node in found.program.graph.nodes if is_layer(node)} == {"fp32"}


def test_a_limit_of_bytes_is_kept_alone_and_with_one_of_latency(program: Program) -> None:
    before = sum(program.weight_bytes().values())
    alone = reach(program, share=0.6)
    both = reach(program, share=0.6, latency_ms=predicted_ms(program) * 0.8, **ON)
    for found in (alone, both):
        assert not report_of(found).missed
        assert sum(found.program.weight_bytes().values()) <= 0.6 * before
        assert report_of(found).rewrites < 5
    assert report_of(alone).latency is None
    assert predicted_ms(both.program) <= 0.8 * predicted_ms(program)
    missed = report_of(reach(program, share=0.1)).missed
    assert missed.endswith("too many") and "limit" in missed


def test_a_program_without_layers_to_quantize_misses_the_limit_as_it_is() -> None:
    program = ew.capture(nn.Softmax(-1), (torch.randn(64, 1000),))
    found = ew.compress(
        program,
        [{"pass": "quantize-progressively", "latency_ms": 1e-4, **ON}],
        batches=[(torch.randn(64, 1000),)],
    )
    assert report_of(found).rewrites == 0
    assert "with 0 of 0 modules quantized" in report_of(found).missed


def test_an_open_size_counts_as_the_largest() -> None:
    batch = {"x": torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(2))}
    program = ew.capture(Net().eval(), batch, {"x": {0: ew.Dim("batch", 1, 4)}})
    limit = predicted_ms(ew.capture(Net().eval(), {"x": torch.zeros(4, 3, 24, 24)})) * 0.7
    found = ew.compress(
        program, [{"pass": "quantize-progressively", "latency_ms": limit, **ON}], batches=[batch], seed=0
    )
    assert not report_of(found).missed and 0 < report_of(found).rewrites < 5
    assert limit / 2 < predicted_ms(found.program) <= limit


def test_a_limit_of_quality_that_the_choice_misses_is_told(program: Program) -> None:
    report = report_of(reach(program, latency_ms=predicted_ms(program) * 0.6, least_db=90.0, **ON))
    assert report.rewrites and "limit 90 dB" in report.missed


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"latency_ms": 8.0, "device": "pixl-8", "target": "tflite"}, DeviceError, "did you mean 'pixel-8'"),
        ({"latency_ms": 8.0, "device": "host", "target": "onnx"}, DeviceError, "host is measured"),
        ({"latency_ms": 8.0, "device": "pixel-8", "target": "coreml"}, DeviceError, "carries no runtime for target"),
        ({"latency_ms": 8.0, "device": "raspberry-pi-5", "target": "openvino"}, DeviceError, "no figures for integers"),
        ({"latency_ms": 8.0, "device": "pixel-8"}, RecipeError, "target is not named\n  expected: tflite or onnx"),
        ({"latency_ms": 8.0}, RecipeError, "device is not named\n  expected: one of: galaxy-s24, "),
        ({"latency_ms": 0.0, **ON}, RecipeError, "latency_ms = 0,"),
        ({"latency_ms": -1.0, **ON}, RecipeError, "above 0"),
        ({"latency_ms": float("nan"), **ON}, RecipeError, "above 0"),
        ({"share": 0.0}, RecipeError, "share = 0"),
        (ON, RecipeError, "without a limit of latency"),
        ({"latency_ms": 8.0, "scheme": "w4", **ON}, RecipeError, "its arithmetic is the float's"),
    ],
)
def test_a_limit_that_says_nothing_is_refused_before_anything_runs(
    settings: dict[str, object], kind: type[EdgewrightError], message: str, program: Program
) -> None:
    with pytest.raises(kind) as raised:
        ew.compress(program, [{"pass": "quantize-progressively", **settings}], batches=iter([None]))  # type: ignore[list-item]
    assert message in str(raised.value)


def test_the_only_delivery_that_fits_is_meant() -> None:
    latency = PredictedLatency((("pixel-8", "tflite"), ("host", "onnx")))
    assert latency.find("", "") == ("pixel-8", "tflite")
    two = PredictedLatency((("pixel-8", "tflite"), ("pixel-8", "onnx"), ("intel-n100", "openvino")))
    assert two.find("", "tflite") == ("pixel-8", "tflite")
    assert two.find("intel-n100", "") == ("intel-n100", "openvino")
    assert two.find("raspberry-pi-5", "onnx") == ("raspberry-pi-5", "onnx")
    with pytest.raises(RecipeError, match="3 deliveries that fit"):
        two.find("", "")
    with pytest.raises(RecipeError, match="target is not named"):
        two.find("pixel-8", "")


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latency_model.py").write_text(MODEL)
    return tmp_path / "release.toml"


def test_a_release_takes_its_only_delivery_and_tells_what_was_predicted(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release.write_text(RELEASE.format(limit="latency_ms = 0.0001"))
    assert run_command("export", release, "--out", "dist") == 1
    assert "limit 0.0001 ms" in capsys.readouterr().out
    result = json.loads(Path("dist/release.json").read_text(), parse_constant=pytest.fail)  # infinity is no JSON
    (record,) = [record for record in result["recipe"] if record["name"] == "quantize-progressively"]
    found = record["latency_ms"]
    assert (record["device"], record["target"], found["provenance"]) == ("pixel-8", "onnx", "predicted")
    assert found["low"] < found["value"] < found["high"]
    assert "the fastest choice" in record["missed"]
    assert all(set(choice["ms"]) == {"fp32", "w8a8"} for choice in record["choices"])
    delivered = result["deliveries"][0]
    assert delivered["status"] == "passed"  # the limit is the step's, and the best so far is kept
    assert found["value"] == pytest.approx(delivered["latency_ms"]["device"]["value"], rel=1e-3)
    page = Path("dist/report.html").read_text()
    assert "on pixel-8, onnx: predicted from the graph" in page and "ms at w8a8, predicted" in page


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("latency_ms = -1.0", "latency_ms = -1,"),
        ("latency_ms = nan", "latency_ms = nan,"),
        ('device = "pixel-8"', "without a limit of latency"),
        ('latency_ms = 1.0\ndevice = "pixl"', "did you mean"),
    ],
)
def test_a_bad_limit_of_a_release_ends_with_exit_code_2_before_the_model_is_loaded(
    limit: str, message: str, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release.write_text(RELEASE.format(limit=limit).replace("latency_model:build", "latency_model:data"))
    assert run_command("export", release, "--out", "dist") == 2
    assert message in capsys.readouterr().err
    assert not Path("dist").exists()
