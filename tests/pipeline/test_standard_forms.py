"""Passes that write the same numbers in a form that every target takes: before, after, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgewright.pipeline.capture import capture
from edgewright.pipeline.passes.base import Pass, PassReport
from edgewright.pipeline.passes.convert_floats import ConvertFloats
from edgewright.pipeline.passes.drop_expansions import DropExpansions
from edgewright.pipeline.passes.drop_identities import DropIdentities
from edgewright.pipeline.passes.fill_branches import FillBranches
from edgewright.pipeline.passes.fold_constants import FoldConstants
from edgewright.pipeline.passes.graph import aten
from edgewright.pipeline.passes.guard_masked_rows import GuardMaskedRows
from edgewright.pipeline.passes.linear_products import LinearProducts
from edgewright.pipeline.passes.lower_ranks import LowerRanks, merge_axes
from edgewright.pipeline.passes.move_patches import MovePatches
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.passes.spell_out_gelu import SpellOutGelu
from edgewright.pipeline.program import Program


class Written(nn.Module):
    """A function as a model, with a weight of 6 x 4 and a bias of 4."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 4, generator=generator))
        self.bias = nn.Parameter(torch.randn(4, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def tidy(function: Callable[..., Tensor], x: Tensor) -> Program:
    program = capture(Written(function), (x,))
    return run_passes(program, [DropIdentities(), FoldConstants()]).program


def targets_of(program: Program) -> list[object]:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def rewritten(program: Program, step: Pass, x: Tensor, rewrites: int = 1) -> Program:
    """The program after the pass, which gives the same numbers and reports `rewrites`."""
    result = run_passes(program, [step])
    assert result.reports[0].report.rewrites == rewrites
    expected, found = program.run({"x": x}), result.program.run({"x": x})
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    return result.program


X = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.addmm(m.bias, x, m.weight),
        lambda m, x: x @ m.weight + m.bias,
        lambda m, x: torch.mm(x, m.weight),
    ],
)
def test_a_product_with_a_weight_is_a_linear_layer(function: Callable[..., Tensor]) -> None:
    after = rewritten(tidy(function, X), LinearProducts(), X)
    assert aten.linear.default in targets_of(after)
    assert not {aten.mm.default, aten.matmul.default, aten.addmm.default} & set(targets_of(after))


def test_a_sum_with_a_product_of_activations_is_a_product_and_an_addition() -> None:
    x = torch.randn(2, 3, 3)
    after = rewritten(tidy(lambda m, x: torch.baddbmm(x, x, x), x), LinearProducts(), x)
    assert targets_of(after) == [aten.bmm.default, aten.add.Tensor]


def test_a_scaled_sum_and_a_product_of_activations_are_left_alone() -> None:
    for function in (lambda m, x: torch.addmm(m.bias, x, m.weight, alpha=2.0), lambda m, x: x @ x.T):
        program = tidy(function, X)
        assert run_passes(program, [LinearProducts()]).reports[0].report == PassReport(0)


def windows(m: Written, x: Tensor) -> Tensor:
    return x.view(1, 2, 4, 2, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 3)


def test_a_window_partition_moves_four_axes() -> None:
    x = torch.randn(1, 8, 8, 3)
    after = rewritten(tidy(windows, x), LowerRanks(), x)
    assert max(node.meta["val"].dim() for node in after.graph.nodes if node.op == "call_function") == 4


def test_a_transposition_of_six_axes_is_lowered_too() -> None:
    x = torch.randn(1, 8, 8, 3)
    program = tidy(lambda m, x: x.view(1, 2, 4, 2, 4, 3).transpose(2, 3).reshape(-1, 16, 3), x)
    after = rewritten(program, LowerRanks(), x)
    assert aten.permute.default in targets_of(after)


def test_six_axes_that_all_move_are_left_alone_with_the_reason() -> None:
    x = torch.randn(2, 2, 2, 2, 2, 2)
    program = tidy(lambda m, x: x.reshape(2, 2, 2, 2, 2, 2).permute(5, 4, 3, 2, 1, 0).reshape(64), x)
    report = run_passes(program, [LowerRanks()]).reports[0].report
    assert report.rewrites == 0 and "cannot be merged" in report.skips[0].reason


@given(st.lists(st.integers(1, 3), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_merged_axes_move_the_same_values(shape: list[int], random: object) -> None:
    order = list(range(len(shape)))
    random.shuffle(order)  # type: ignore[attr-defined]
    x = torch.arange(int(torch.tensor(shape).prod()))
    sizes, places = merge_axes(shape, order)
    assert torch.equal(x.reshape(shape).permute(order).flatten(), x.reshape(sizes).permute(places).flatten())
    assert len(sizes) <= sum(size > 1 for size in shape)


class MaskedAttention(nn.Module):
    def __init__(self, by_query: bool) -> None:
        super().__init__()
        self.by_query = by_query

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        query = x[:, None]
        mask = keep[:, None, None, :]
        if self.by_query:
            near = (torch.arange(6)[:, None] - torch.arange(6)).abs() <= 1
            mask = mask & near
        return F.scaled_dot_product_attention(query, query, query, attn_mask=mask)


INPUTS = {"x": torch.randn(1, 6, 4), "keep": torch.tensor([[True, True, False, False, False, True]])}


def test_a_row_without_keys_attends_to_all_and_is_then_zeroed() -> None:
    program = run_passes(capture(MaskedAttention(True), INPUTS), [DropIdentities(), FoldConstants()]).program
    result = run_passes(program, [GuardMaskedRows()])
    assert result.reports[0].report.rewrites == 1
    expected, found = program.run(INPUTS)["output_0"], result.program.run(INPUTS)["output_0"]
    assert torch.equal(expected[0, 0, 3], torch.zeros(4)), "row 3 sees 2, 3 and 4, all masked"
    torch.testing.assert_close(found, expected)
    attention = next(node for node in result.program.graph.nodes if "scaled_dot" in str(node.target))
    mask = next(node for node in attention.all_input_nodes if node.meta["val"].dtype == torch.bool)
    interpreter = torch.fx.Interpreter(result.program.module, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*INPUTS.values())
    assert bool(interpreter.env[mask].any(-1).all()), "no runtime sees a row that is masked wholly"


def test_a_mask_of_padding_alone_is_left_alone() -> None:
    program = capture(MaskedAttention(False), INPUTS)
    assert run_passes(program, [GuardMaskedRows()]).reports[0].report == PassReport(0)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.where(x > 0, x, 0.5),
        lambda m, x: torch.where(x > 0, 1.0, x),
        lambda m, x: torch.where(x > 0, 1.0, 2.0),
    ],
)
def test_a_choice_of_a_number_is_one_of_two_tensors(function: Callable[..., Tensor]) -> None:
    after = rewritten(tidy(function, X), FillBranches(), X)
    assert aten.where.self in targets_of(after)


def test_the_tanh_form_of_gelu_is_its_formula_and_the_exact_form_stays() -> None:
    after = rewritten(tidy(lambda m, x: F.gelu(x, approximate="tanh"), X), SpellOutGelu(), X)
    assert aten.gelu.default not in targets_of(after)
    assert run_passes(tidy(lambda m, x: F.gelu(x), X), [SpellOutGelu()]).reports[0].report == PassReport(0)


def test_an_expansion_is_left_to_the_operation_that_reads_it() -> None:
    after = rewritten(tidy(lambda m, x: x * x.sum(1, keepdim=True).expand_as(x), X), DropExpansions(), X)
    assert aten.expand.default not in targets_of(after)


def test_an_expansion_that_makes_the_shape_stays() -> None:
    program = tidy(lambda m, x: x[:, :1].expand(3, 6) + 1.0, X)
    assert run_passes(program, [DropExpansions()]).reports[0].report == PassReport(0)
    both = tidy(lambda m, x: x[:, :1].expand(3, 6) * x[:1].expand(3, 6), X)
    kept = run_passes(both, [DropExpansions()]).program
    torch.testing.assert_close(kept.run({"x": X})["output_0"], both.run({"x": X})["output_0"])


def patches(m: Written, x: Tensor) -> Tensor:
    columns = F.unfold(x, (2, 3), stride=(2, 3))
    return F.fold(columns * 2.0, (8, 9), (2, 3), stride=(2, 3)) + columns.sum()


def test_patches_that_do_not_overlap_are_moved() -> None:
    x = torch.randn(2, 5, 8, 9)
    after = rewritten(tidy(patches, x), MovePatches(), x, rewrites=2)
    assert not {aten.im2col.default, aten.col2im.default} & set(targets_of(after))


def test_patches_that_overlap_are_left_alone_with_the_reason() -> None:
    program = tidy(lambda m, x: F.unfold(x, 3, padding=1), torch.randn(1, 2, 6, 6))
    report = run_passes(program, [MovePatches()]).reports[0].report
    assert report.rewrites == 0 and "overlap" in report.skips[0].reason


def test_a_float16_program_masks_with_a_number_that_float16_has() -> None:
    least = torch.finfo(torch.float32).min
    program = tidy(lambda m, x: x.masked_fill(x > 0, least).softmax(-1) + x.masked_fill(x > 0, -torch.inf), X)
    after = run_passes(program, [ConvertFloats()]).program
    filled = [node.args[2] for node in after.graph.nodes if node.target is aten.masked_fill.Scalar]
    assert filled == [-65504.0, -torch.inf]
