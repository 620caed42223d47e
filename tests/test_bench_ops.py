"""The replay of operators: it tells verified, refused, failed, wrong and crashed apart, and a dozen operators hold."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch
from rich.console import Console

from bench import ops
from bench.ops_cells import CRASHED, FAILED, REFUSED, VERIFIED, WRONG, Outcome, classify_error, compare, run_case
from bench.ops_samples import LEFT_OUT, Case, cases_of, core_operators, module_of
from bench.ops_workers import replay
from edgewright.errors import CaptureError, LoweringError, TargetError
from edgewright.targets.base import Refusal

DOZEN = ("abs", "add", "amax", "bmm", "cat", "clamp", "cumsum", "gather", "mean", "relu", "select", "where")
ONE = np.array([1.0, 2.0, 3.0], np.float32)


def changed(**values: float) -> np.ndarray:
    copy = ONE.copy()
    for place, value in values.items():
        copy[int(place[1:])] = value
    return copy


@pytest.mark.parametrize(
    "found",
    [
        [changed(_1=2.001)],
        [changed(_1=np.nan)],
        [changed(_1=np.inf)],
        [ONE.astype(np.float64)],
        [ONE.reshape(3, 1)],
        [ONE, ONE],
        [],
    ],
)
def test_another_value_dtype_shape_or_number_of_outputs_is_wrong(found: list[np.ndarray]) -> None:
    assert compare([ONE], found).status == WRONG


def test_rounding_nan_and_infinities_in_their_places_are_right() -> None:
    right = changed(_0=np.nan, _1=-np.inf)
    assert compare([right], [right * np.float32(1 + 1e-6)]) == Outcome(VERIFIED)
    assert compare([right], [-right]).status == WRONG


def test_a_float_near_zero_may_be_off_by_an_epsilon_of_float32_and_no_more() -> None:
    right = np.float32(2e-4)
    assert compare([right], [right + np.float32(1.0e-7)]).status == VERIFIED
    assert compare([right], [right + np.float32(1.5e-7)]).status == WRONG
    assert compare([np.float32(1e-8)], [np.float32(0.0)]).status == WRONG, "an epsilon, and all of the value"
    assert "1e-3 where that is less than float32's epsilon" in ops.write_page({}, [])


def test_an_integer_that_is_one_off_among_millions_is_wrong() -> None:
    right = np.arange(1_000_000, 1_000_100)
    assert compare([right], [right]).status == VERIFIED
    assert "1 of 100 values, first at (7,)" in compare([right], [right + (np.arange(100) == 7)]).reason


def test_only_a_refusal_with_node_operation_reason_and_way_out_counts_as_one() -> None:
    whole, bare = TargetError("refused"), TargetError("refused")
    whole.refusals = (Refusal("onnx", "add", "aten::add", "no such thing", "leave it out"),)
    bare.refusals = (Refusal("onnx", "", "", "no such thing", ""),)
    assert classify_error(whole) == Outcome(REFUSED, "aten::add: no such thing; leave it out")
    assert classify_error(CaptureError("no graph")).status == REFUSED
    assert classify_error(bare).status == classify_error(TargetError("no")).status == FAILED
    assert classify_error(LoweringError("the converter failed")).status == FAILED


def test_a_wrong_session_makes_a_wrong_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewright.targets.onnx.run import OnnxSession

    right = OnnxSession.run
    case = cases_of("abs", 1)[0]
    assert run_case(case, "onnx") == Outcome(VERIFIED)
    monkeypatch.setattr(OnnxSession, "run", lambda self, feed: {k: v + 1 for k, v in right(self, feed).items()})
    assert run_case(case, "onnx").status == WRONG


def die_at_one(case: Case, target: str) -> Outcome:
    if case.place == 1:
        os.abort()
    if case.place == 2:
        time.sleep(60)
    return Outcome(VERIFIED, f"{target} {case.place}")


def test_a_process_that_dies_or_hangs_costs_its_own_cell_only() -> None:
    cases = [Case("abs", "abs", "float32", place) for place in range(4)]
    found = list(replay(cases, "onnx", run=die_at_one, seconds=5.0))
    assert [one.status for one in found] == [VERIFIED, CRASHED, CRASHED, VERIFIED]
    assert "exit code -6" in found[1].reason and "no answer after 5 s" in found[2].reason
    assert found[3].reason == "onnx 3"


def test_samples_are_the_same_each_time_distinct_and_in_the_dtypes_of_the_operator() -> None:
    cases = cases_of("add", 3)
    assert cases == cases_of("add", 3)
    assert [case.dtype for case in cases] == ["float32"] * 3 + ["int64", "int32", "bool"]
    for case in cases:
        first, second = module_of(case), module_of(case)
        assert all(torch.equal(a, b) for a, b in zip(first.inputs(), second.inputs(), strict=True))
    assert {case.dtype for case in cases_of("erf", 3)} >= {"float32"}
    assert {case.dtype for case in cases_of("grid_sampler_2d", 3)} == {"float32"}


def test_every_core_operator_is_replayed_or_left_out_with_a_reason() -> None:
    assert set(LEFT_OUT) <= set(core_operators())
    assert all(cases_of(operator, 1) for operator in ops.replayed_operators())


def test_the_page_counts_cells_and_tells_reasons() -> None:
    case, other = Case("abs", "abs", "float32", 0), Case("abs", "abs", "int64", 0)
    outcomes = {(case, "onnx"): Outcome(VERIFIED), (other, "onnx"): Outcome(REFUSED, "abs: of integers; use floats")}
    page = ops.write_page(outcomes, ["onnx"])
    assert "| `abs` | 1 of 2, 1 refused |" in page
    assert "- **onnx**, `abs`: abs: of integers; use floats" in page
    assert page == ops.write_page(dict(reversed(outcomes.items())), ["onnx"])


def test_a_wrong_cell_ends_the_bench_with_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for status, code in ((VERIFIED, 0), (REFUSED, 0), (WRONG, 1), (CRASHED, 1)):
        monkeypatch.setattr(ops, "replay", lambda cases, target, status=status: [Outcome(status) for _ in cases])
        assert ops.main(["--operators", "abs", "--targets", "onnx"]) == code


@pytest.mark.slow
@pytest.mark.parametrize("target", ops.installed_targets())
def test_a_dozen_operators_are_right_or_refused_by_name(target: str) -> None:
    cases = [case for operator in DOZEN for case in cases_of(operator, 1)]
    outcomes = ops.replay_all(cases, [target], Console(quiet=True))
    assert {str(case): one for (case, _), one in outcomes.items() if one.status not in (VERIFIED, REFUSED)} == {}
    assert sum(one.status == VERIFIED for one in outcomes.values()) >= 0.8 * len(outcomes)
