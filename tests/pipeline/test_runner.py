"""The runner: order, honesty and blame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch.fx import Node

from edgewright.errors import CalibrationError, PassError, RecipeError
from edgewright.pipeline.passes.base import Context, Pass, PassReport
from edgewright.pipeline.passes.decompose_attention import DecomposeAttention
from edgewright.pipeline.passes.drop_identities import DropIdentities
from edgewright.pipeline.passes.fold_batchnorm import FoldBatchnorm
from edgewright.pipeline.passes.quantize_static import QuantizeStatic
from edgewright.pipeline.passes.runner import check_order, run_passes
from edgewright.pipeline.passes.shift_activations import ShiftActivations
from edgewright.pipeline.passes.unfold_weights import UnfoldWeights
from edgewright.pipeline.program import Program
from tests.small_models import SMALL, captured

aten = torch.ops.aten


def last_result(program: Program) -> Node:
    return program.graph.output_node().args[0][0]  # type: ignore[index, return-value]


def append(program: Program, target: object, *args: object) -> None:
    """Put an operation between the last node and the output."""
    result = last_result(program)
    with program.graph.inserting_after(result):
        node = program.graph.call_function(target, (result, *args))  # type: ignore[arg-type]
    result.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)


@dataclass(frozen=True)
class Liar:
    """Changes the graph and reports nothing."""

    name: ClassVar[str] = "liar"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        append(program, aten.relu.default)
        return PassReport(0)


@dataclass(frozen=True)
class Crash:
    name: ClassVar[str] = "crash"
    runs_after: ClassVar[tuple[str, ...]] = ()
    depth: int = 3

    def run(self, program: Program, context: Context) -> PassReport:
        raise KeyError("no such thing")


@dataclass(frozen=True)
class Reshapes:
    name: ClassVar[str] = "reshapes"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        append(program, aten.unsqueeze.default, 0)
        return PassReport(1)


@dataclass(frozen=True)
class Casts:
    name: ClassVar[str] = "casts"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        append(program, aten.to.dtype, torch.float16)
        return PassReport(1)


@dataclass(frozen=True)
class LosesAnOutput:
    name: ClassVar[str] = "loses-an-output"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        output = program.graph.output_node()
        output.args = (output.args[0][:1],)  # type: ignore[index]
        return PassReport(1)


@dataclass(frozen=True)
class Mismatched:
    """Leaves a graph whose shapes do not fit."""

    name: ClassVar[str] = "mismatched"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        append(program, aten.reshape.default, [7, 7])
        return PassReport(1)


def test_every_order_violation_is_reported_at_once() -> None:
    passes = [ShiftActivations(), UnfoldWeights(), QuantizeStatic(), FoldBatchnorm()]
    with pytest.raises(RecipeError) as caught:
        check_order(passes)
    message = str(caught.value)
    quantize = QuantizeStatic.name
    assert f"shift-activations (place 1) has to run after {quantize}" in message
    assert f"unfold-weights (place 2) has to run after {quantize}" in message
    assert f"{quantize} (place 3) has to run after fold-batchnorm" in message


def test_order_binds_only_passes_that_are_in_the_recipe() -> None:
    check_order([QuantizeStatic(), ShiftActivations()])
    check_order([ShiftActivations()])


def test_a_wrong_order_runs_nothing() -> None:
    ran: list[str] = []
    with pytest.raises(RecipeError):
        run_passes(captured("mlp"), [QuantizeStatic(), FoldBatchnorm()], progress=ran.append)
    assert ran == []


def test_a_pass_that_reports_nothing_but_changes_the_graph_is_caught() -> None:
    with pytest.raises(PassError, match="liar said that it rewrote nothing but changed the graph"):
        run_passes(captured("mlp"), [Liar()])


def test_a_failing_pass_is_named_with_its_settings_and_those_before_it() -> None:
    with pytest.raises(PassError, match="the pass crash failed") as caught:
        run_passes(captured("mlp"), [DropIdentities(), FoldBatchnorm(), Crash(depth=5)])
    message = str(caught.value)
    assert "Crash(depth=5)" in message
    assert "after: drop-identities, fold-batchnorm" in message
    assert "KeyError" in message
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_of_our_own_keeps_its_kind() -> None:
    with pytest.raises(CalibrationError):
        run_passes(captured("mlp"), [QuantizeStatic()])


@pytest.mark.parametrize("step", [Reshapes(), Casts()])
def test_a_pass_that_changes_an_outputs_shape_or_dtype_is_caught_by_name(step: Pass) -> None:
    with pytest.raises(PassError, match=f"the pass {step.name} changed the outputs"):
        run_passes(captured("mlp"), [step])


def test_a_pass_that_loses_an_output_is_caught_by_name() -> None:
    with pytest.raises(PassError, match="the pass loses-an-output changed the outputs"):
        run_passes(captured("two_inputs"), [LosesAnOutput()])


def test_a_pass_that_leaves_an_impossible_graph_is_named() -> None:
    with pytest.raises(PassError, match="the pass mismatched failed"):
        run_passes(captured("mlp"), [Mismatched()])


def test_the_callers_program_is_never_touched() -> None:
    program = captured("cnn")
    before = program.digest()
    context = Context(batches=SMALL["cnn"].batches(2))
    result = run_passes(program, [FoldBatchnorm(), QuantizeStatic()], context)
    assert result.program.digest() != before
    assert program.digest() == before
    assert not any("quantization_annotation" in node.meta for node in program.graph.nodes)


def test_reports_and_progress_come_in_the_order_of_the_recipe() -> None:
    told: list[str] = []
    passes = [DropIdentities(), FoldBatchnorm(), DecomposeAttention()]
    result = run_passes(captured("cnn"), passes, progress=told.append)
    assert told == ["drop-identities", "fold-batchnorm", "decompose-attention"]
    assert [ran.step for ran in result.reports] == passes
    assert [ran.report.rewrites for ran in result.reports] == [0, 7, 0]


def test_our_passes_keep_the_protocol() -> None:
    for step in (FoldBatchnorm(), QuantizeStatic(), ShiftActivations(), DropIdentities()):
        assert isinstance(step, Pass)
        with pytest.raises(AttributeError):
            step.name = "other"  # type: ignore[misc]  # frozen
