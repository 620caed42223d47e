"""Quantization as far as a limit of quality allows, the least sensitive modules first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import edgewright as ew
from edgewright.errors import RecipeError
from edgewright.pipeline.breakdown import scheme_of
from edgewright.pipeline.cli import app
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.graph import module_path
from edgewright.pipeline.passes.layer_weights import WEIGHTS
from edgewright.pipeline.passes.quality_limit import farthest
from edgewright.pipeline.passes.runner import Compressed
from edgewright.pipeline.program import Program
from tests.small_models import outputs
from tests.vision_language import VisionLanguage, batches


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return ew.capture(VisionLanguage().eval(), batches(1)[0])


def progressively(program: Program, **settings: object) -> Compressed:
    return ew.compress(program, [{"pass": "quantize-progressively", **settings}], batches=batches(16))


def schemes(program: Program) -> dict[str, str]:
    return {module_path(node): scheme_of(program, node) for node in program.graph.nodes if node.target in WEIGHTS}


def reached_db(program: Program, found: Compressed) -> float:
    samples = batches(16)
    return sqnr_db(outputs(program, samples).numpy(), outputs(found.program, samples).numpy())


@given(count=st.integers(0, 40), reach=st.integers(0, 40))
def test_the_farthest_step_is_found_in_few_trials(count: int, reach: int) -> None:
    tried = []

    def miss(step: int) -> str:
        tried.append(step)
        return "" if step < reach else f"{step} is too far"

    found, reason = farthest(count, miss)
    assert found == min(count, reach) - 1
    assert reason == ("" if reach >= count else f"{reach} is too far")
    assert len(tried) == len(set(tried)) <= 1 + (count - 1).bit_length() if count else not tried


def test_a_loose_limit_quantizes_everything_and_a_tight_one_less(program: Program) -> None:
    found = {limit: progressively(program, scheme="w4", least_db=limit) for limit in (5.0, 25.0, 35.0)}
    for limit, result in found.items():
        assert reached_db(program, result) >= limit
    counts = [sum(scheme == "w4" for scheme in schemes(result.program).values()) for result in found.values()]
    assert counts[0] == 12
    assert counts[0] > counts[1] > counts[2] > 0
    report = found[25.0].reports[-1].report
    assert report.skips and all("of the error: with it," in skip.reason for skip in report.skips)


def test_the_most_sensitive_modules_are_the_ones_that_stay_in_float(program: Program) -> None:
    alone = {
        layer: reached_db(program, ew.compress(program, [{"pass": "quantize", "scheme": "w4", "modules": layer}]))
        for layer in ("language.head", "vision.block.attention.qkv")
    }
    assert alone["language.head"] < alone["vision.block.attention.qkv"]
    found = schemes(progressively(program, scheme="w4", least_db=25.0).program)
    assert (found["language.head"], found["vision.block.attention.qkv"]) == ("fp32", "w4")


def test_activations_are_quantized_in_the_chosen_modules_alone(program: Program) -> None:
    full = ew.compress(program, [{"pass": "quantize", "scheme": "w8a8"}], batches=batches(16))
    limit = reached_db(program, full) + 2
    found = progressively(program, least_db=limit)
    assert reached_db(program, found) >= limit
    assert set(schemes(found.program).values()) == {"w8a8", "fp32"} | ({"w8"} & set(schemes(found.program).values()))


def test_a_limit_that_nothing_keeps_leaves_the_program_as_it_is(program: Program) -> None:
    report = progressively(program, scheme="w2g32", least_db=80.0).reports[-1].report
    assert report.rewrites == 0
    assert "no module can be quantized" in report.missed and "limit 80 dB" in report.missed


def test_without_a_limit_it_is_refused(program: Program) -> None:
    with pytest.raises(RecipeError, match="goes up to a limit\\n  got: none\\n  expected: max_drop"):
        progressively(program)


RELEASE = """
name = "small"
[model]
source = "progressive_model:build"
[[model.inputs]]
name = "x"
shape = ["batch", 16]
[calibration]
data = "progressive_model:data"
[[compress]]
pass = "quantize-progressively"
scheme = "w4"
least_db = {limit}
[[deliver]]
device = "raspberry-pi-5"
target = "onnx"
"""
MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32)).eval()

def data():
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        yield {"x": torch.randn(1, 16, generator=generator).numpy()}
"""


@pytest.mark.parametrize(("limit", "code"), [(10.0, 0), (120.0, 1)])
def test_a_missed_limit_of_the_recipe_ends_with_exit_code_1_and_keeps_the_best_so_far(
    limit: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "progressive_model.py").write_text(MODEL.replace('"x"', '"input"'))
    (tmp_path / "release.toml").write_text(RELEASE.format(limit=limit).replace('"x"', '"input"'))
    with pytest.raises(SystemExit) as stopped:
        app(["export", "release.toml", "--out", "dist"])
    assert stopped.value.code == code
    result = json.loads((tmp_path / "dist" / "release.json").read_text())
    assert result["deliveries"][0]["status"] == "passed"
    missed = [record["missed"] for record in result["recipe"] if record["missed"]]
    assert len(missed) == code
    assert ("limit 120 dB" in capsys.readouterr().out) == bool(code)
    assert ("limit of the recipe missed" in (tmp_path / "dist" / "report.html").read_text()) == bool(code)
