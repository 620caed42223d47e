"""Schemes for each weight under a limit of bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import edgewright as ew
from edgewright.errors import CalibrationError, RecipeError
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.mix_precision import choose
from edgewright.pipeline.passes.runner import Compressed
from edgewright.pipeline.predictor import Run, run_program
from edgewright.pipeline.program import Program


class Uneven(nn.Module):
    """Layers of one size, of which one hardly reaches the output."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(64, 64)
        self.loud, self.quiet, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 32)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        return self.last(F.gelu(self.loud(x)) + 0.001 * self.quiet(x))


def batches(count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"ids": torch.randint(0, 64, (1, 16), generator=generator)} for _ in range(count)]


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return ew.capture(Uneven().eval(), batches(1)[0])


def mixed(program: Program, share: float, **settings: object) -> Compressed:
    return ew.compress(program, [{"pass": "mix-precision", "share": share, **settings}], batches=batches(16))


def share_of(program: Program, original: Program) -> float:
    return sum(program.weight_bytes().values()) / sum(original.weight_bytes().values())


def quality(program: Program, original: Program) -> float:
    found = [torch.cat([one.run(batch)["output_0"] for batch in batches(8, seed=9)]) for one in (original, program)]
    return sqnr_db(found[0].numpy(), found[1].numpy())


@given(seed=st.integers(0, 10**6), count=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_the_choice_is_the_best_of_all(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = [f"w{place}" for place in range(count)]
    costs = {key: sorted(torch.rand(3, generator=generator).tolist(), reverse=True) for key in keys}
    sizes = {key: sorted(torch.randint(1, 100, (3,), generator=generator).tolist()) for key in keys}
    limit = float(torch.rand((), generator=generator)) * sum(max(size) for size in sizes.values())

    def total(table: dict[str, list[float]] | dict[str, list[int]], places: tuple[int, ...]) -> float:
        return float(sum(table[key][place] for key, place in zip(keys, places, strict=True)))

    fitting = [places for places in itertools.product(range(3), repeat=count) if total(sizes, places) <= limit]
    picked = tuple(choose(costs, sizes, limit)[key] for key in keys)
    if not fitting:
        assert picked == (0,) * count, "the smallest ones"
    else:
        assert total(sizes, picked) <= limit
        assert total(costs, picked) == pytest.approx(min(total(costs, places) for places in fitting), rel=1e-5)


def test_the_weight_that_matters_least_gets_the_fewest_bits(program: Program) -> None:
    result = mixed(program, 0.24)
    (choices,) = [ran.report.choices for ran in result.reports if ran.report.choices]
    # Folding the factor into it gave one weight a new name.
    names = {choice.weight: choice.weight.replace("_", ".").split(".")[0] for choice in choices}
    chosen = {names[choice.weight]: choice.scheme for choice in choices}
    assert chosen["quiet"] == "w4g32"
    assert "w8" in chosen.values()
    costs = {names[choice.weight]: choice.costs for choice in choices}
    assert costs["quiet"]["w4g32"] < 1e-3 * costs["loud"]["w4g32"]
    assert all(cost["w8"] < cost["w4g32"] for cost in costs.values())


@pytest.mark.parametrize("share", [0.2, 0.22, 0.25])
def test_it_keeps_the_limit_and_beats_uniform_schemes_of_its_size(program: Program, share: float) -> None:
    found = mixed(program, share).program
    assert share_of(found, program) <= share
    uniform = ew.compress(
        program, [{"pass": "quantize", "scheme": "w4g32", "rounding": "gptq"}], batches=batches(16)
    ).program
    assert quality(found, program) > quality(uniform, program)


def test_more_bytes_are_never_worse(program: Program) -> None:
    found = [quality(mixed(program, share).program, program) for share in (0.18, 0.22, 0.3)]
    assert found == sorted(found)


def test_a_limit_that_nothing_meets_gives_the_smallest_and_says_by_how_much(program: Program) -> None:
    result = mixed(program, 0.05)
    (report,) = [ran.report for ran in result.reports if ran.report.choices]
    assert {choice.scheme for choice in report.choices} == {"w4g32"}
    assert "bytes more than 5% of float32 allows" in report.missed


def test_bad_schemes_and_missing_data_are_refused(program: Program) -> None:
    with pytest.raises(RecipeError, match="two or more of w8, w4"):
        mixed(program, 0.2, schemes="w8a8|w4")
    with pytest.raises(RecipeError, match="two or more of w8, w4"):
        mixed(program, 0.2, schemes="w8")
    with pytest.raises(CalibrationError, match="needs calibration data"):
        ew.compress(program, [{"pass": "mix-precision"}])
    with pytest.raises(RecipeError, match="no such sensitivity\n  got: 'sqrn'\n  expected: did you mean 'sqnr'"):
        mixed(program, 0.2, sensitivity="sqrn")
    with pytest.raises(RecipeError, match="sensitivity by the metric needs one"):
        mixed(program, 0.2, sensitivity="metric")
    with pytest.raises(RecipeError, match="a limit of the drop needs a metric"):
        mixed(program, 0.2, max_drop=0.01)


def closeness(program: Program) -> Callable[[Run], float]:
    """A metric: how near a run comes to the float program on data of its own, in dB, at most 60."""
    samples = [{name: value.numpy() for name, value in batch.items()} for batch in batches(4, seed=5)]
    exact = [run_program(program)(sample)["output_0"] for sample in samples]

    def metric(run: Run) -> float:
        return min(60.0, sqnr_db(np.stack(exact), np.stack([run(sample)["output_0"] for sample in samples])))

    return metric


@pytest.mark.parametrize("sensitivity", ["outputs", "sqnr", "metric"])
def test_each_measure_of_sensitivity_finds_the_weight_that_hardly_matters(program: Program, sensitivity: str) -> None:
    step = {"pass": "mix-precision", "share": 0.24, "sensitivity": sensitivity, "rounding": "nearest"}
    reports = ew.compress(program, [step], batches=batches(16), metric=closeness(program)).reports
    (choices,) = [ran.report.choices for ran in reports if ran.report.choices]
    costs = {choice.weight.replace("_", ".").split(".")[0]: choice.costs for choice in choices}
    assert min(costs, key=lambda name: costs[name]["w4g32"]) == "quiet"
    assert all(cost["w8"] <= cost["w4g32"] for cost in costs.values())


def test_with_a_limit_of_quality_the_smallest_choice_within_it_is_taken(program: Program) -> None:
    found = {limit: mixed(program, 0.0, least_db=limit).program for limit in (20.0, 28.0, 40.0)}
    for limit, one in found.items():
        assert quality(one, program) > limit - 1.5, "held-out data may differ a little"
    shares = [share_of(one, program) for one in found.values()]
    assert shares == sorted(shares)
    assert shares[0] < shares[2]


def test_a_limit_of_the_drop_holds_for_the_users_metric(program: Program) -> None:
    metric = closeness(program)
    step = {"pass": "mix-precision", "share": 0.0, "max_drop": 25.0, "rounding": "nearest"}
    found = ew.compress(program, [step], batches=batches(16), metric=metric)
    assert metric(run_program(found.program)) >= 60.0 - 25.0
    assert share_of(found.program, program) < 0.27
    assert not any(ran.report.missed for ran in found.reports)


def test_a_limit_of_quality_that_nothing_keeps_gives_the_best_and_says_what_is_missing(program: Program) -> None:
    reports = mixed(program, 0.0, least_db=90.0).reports
    (report,) = [ran.report for ran in reports if ran.report.choices]
    assert {choice.scheme for choice in report.choices} == {"w8"}
    assert "even the widest schemes" in report.missed and "limit 90 dB" in report.missed
