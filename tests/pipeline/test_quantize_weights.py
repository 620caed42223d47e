"""Weights of few bits, with arithmetic in float."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import Node

import edgewright as ew
from edgewright.errors import RecipeError
from edgewright.pipeline.encoding import nearest_scheme
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes import stored_integers
from edgewright.pipeline.passes.gather_rows import GatherRows
from edgewright.pipeline.passes.keep_weights import KeepWeights
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.passes.spell_out_weights import SpellOutWeights
from edgewright.pipeline.passes.stored_integers import has_few_bits, stored_weights
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding.grid import Grid

aten = torch.ops.aten


class Reader(nn.Module):
    """An embedding, a norm before a linear layer, a convolution, a layer whose inputs no group divides, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(50, 64), nn.LayerNorm(64)
        self.up, self.odd = nn.Linear(64, 40), nn.Linear(40, 64)
        self.mix = nn.Conv1d(64, 64, 3, padding=1)
        self.head = nn.Linear(64, 50, bias=False)
        self.head.weight = self.table.weight
        nn.init.normal_(self.norm.weight)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.odd(torch.relu(self.up(self.norm(x)))))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return ew.capture(Reader().eval(), (torch.randint(0, 50, (2, 7)),))


def ids() -> dict[str, Tensor]:
    return {"ids": torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(1))}


def compressed(program: Program, scheme: str, **settings: Any) -> Program:
    return ew.compress(program, [{"pass": "quantize", "scheme": scheme, **settings}]).program


def error_db(one: Program, other: Program) -> float:
    return sqnr_db(one.run(ids())["output_0"].numpy(), other.run(ids())["output_0"].numpy())


# The grid


@given(bits=st.sampled_from([2, 3, 4, 8]), group=st.sampled_from([0, 4, 16]), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_rounding_errs_by_half_a_step_at_most(bits: int, group: int, seed: int) -> None:
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 7 - 3)
    grid = Grid(bits, group)
    scales = grid.scales(weight)
    restored = grid.round(weight, scales) * grid.spread(scales, 16)
    assert scales.shape == (5, 16 // (group or 16))
    assert bool((scales > 0).all())
    assert bool(((restored - weight).abs() <= grid.spread(scales, 16) * 0.5001).all())


@given(bits=st.sampled_from([2, 3, 4]), group=st.sampled_from([0, 8]), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_searched_scales_never_err_more_than_the_largest_values(bits: int, group: int, seed: int) -> None:
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(seed)) ** 3

    def error(grid: Grid) -> float:
        scales = grid.scales(weight)
        return float((grid.round(weight, scales) * grid.spread(scales, 32) - weight).square().sum())

    assert error(Grid(bits, group, search=True)) <= error(Grid(bits, group)) * 1.0001


@given(bits=st.sampled_from([2, 3, 4]), group=st.sampled_from([0, 32]), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_signed_scales_map_the_largest_weight_to_the_longer_side_and_err_less(bits: int, group: int, seed: int) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed))
    for search in (False, True):
        positive, signed = Grid(bits, group, search), Grid(bits, group, search, signed=True)
        errors = []
        for grid in (positive, signed):
            scales = grid.scales(weight)
            steps = grid.round(weight, scales)
            errors.append(float((steps * grid.spread(scales, 64) - weight).square().sum()))
        assert errors[1] < errors[0]
        largest = weight.abs().reshape(64, -1, group or 64).argmax(2, keepdim=True)
        assert bool((steps.reshape(64, -1, group or 64).gather(2, largest) < 0).all())
        assert bool((scales < 0).any()) and bool((scales > 0).any())


def test_scales_of_groups_are_numbers_of_float16_unless_that_has_none_near() -> None:
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    weight[0] = 0
    for grid in (Grid(4, 16), Grid(4, 16, search=True, signed=True)):
        exact = Grid(grid.bits, 0, grid.search, signed=grid.signed).scales(weight.reshape(-1, 16)).reshape(6, 4)
        assert torch.equal(grid.scales(weight), exact.half().float())
        assert not torch.equal(exact, exact.half().float())
        for factor in (1e-5, 1e7):  # below and above the normal range of float16
            changed = weight.clone()
            changed[1] *= factor
            exact = Grid(grid.bits, 0, grid.search, signed=grid.signed).scales(changed.reshape(-1, 16)).reshape(6, 4)
            assert torch.equal(grid.scales(changed), exact)


def test_a_weight_of_zeros_has_a_scale_and_stays_zero() -> None:
    weight = torch.zeros(3, 8)
    for grid in (Grid(4, 4, search=True), Grid(8), Grid(4, 4, signed=True)):
        scales = grid.scales(weight)
        assert bool((scales != 0).all())
        assert not grid.round(weight, scales).any()


def test_important_columns_decide_the_searched_scale() -> None:
    weight = torch.tensor([[0.9, 0.31, 0.29, 0.3]])
    matters = torch.tensor([1e-6, 1.0, 1.0, 1.0])
    grid = Grid(2, search=True)
    plain, weighted = grid.scales(weight), grid.scales(weight, matters)
    errors = [(grid.round(weight, s) * s - weight).square()[:, 1:].sum() for s in (plain, weighted)]
    assert errors[1] < errors[0]


# The pass


def test_8_bits_have_a_scale_an_output_channel(program: Program) -> None:
    found = compressed(program, "w8")
    assert {stored.bits for stored in stored_weights(found)} == {8}
    assert not has_few_bits(found)
    assert all(stored.scales.numel() == stored.integers.shape[0] for stored in stored_weights(found))
    assert error_db(program, found) > 35
    assert sum(found.weight_bytes().values()) < 0.31 * sum(program.weight_bytes().values())


def test_4_bits_count_as_half_a_byte(program: Program) -> None:
    found = compressed(program, "w4")
    stored = {id(weight.integers): weight.integers.numel() for weight in stored_weights(found)}
    assert found.weight_bytes()["int4"] == sum(stored.values()) // 2
    assert "int8" not in found.weight_bytes()


def test_what_a_group_does_not_divide_gets_8_bits_and_says_so(program: Program) -> None:
    result = ew.compress(program, [{"pass": "quantize", "scheme": "w4g32"}])
    skips = {skip.node: skip.reason for ran in result.reports for skip in ran.report.skips}
    assert "40 columns are no multiple of 32: it got 8 bits" in skips["odd.weight"]
    assert "8 bits, one scale an output channel" in skips["mix.weight"]
    bits = {stored.name.split("_")[0]: stored.bits for stored in stored_weights(result.program)}
    assert bits == {"head": 4, "up": 4, "odd": 8, "mix": 8}  # the tied one has one name


def test_more_scales_err_less(program: Program) -> None:
    errors = [error_db(program, compressed(program, scheme)) for scheme in ("w2g32", "w4", "w4g32", "w8")]
    assert errors == sorted(errors)


def test_a_tied_weight_is_stored_once(program: Program) -> None:
    found = compressed(program, "w8")
    tables = [stored for stored in stored_weights(found) if stored.name.startswith("head")]
    assert len(tables) == 1
    assert len(tables[0].node.users) == 2


def test_small_weights_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 64))
    result = ew.compress(ew.capture(model, (torch.randn(1, 8),)), [{"pass": "quantize", "scheme": "w8"}])
    reasons = {skip.node: skip.reason for ran in result.reports for skip in ran.report.skips}
    assert "too few" in reasons["0.weight"]
    assert [stored.name for stored in stored_weights(result.program)] == ["1_weight_int8"]


def test_modules_are_chosen_by_pattern_and_steps_combine(program: Program) -> None:
    recipe = [
        {"pass": "quantize", "scheme": "w4g32", "modules": "table"},
        {"pass": "quantize", "scheme": "w8", "modules": "up|odd"},
    ]
    found = ew.compress(program, recipe).program
    bits = {stored.name.split("_")[0]: stored.bits for stored in stored_weights(found)}
    assert bits == {"head": 4, "up": 8, "odd": 8}


def test_a_pattern_without_a_module_names_the_nearest(program: Program) -> None:
    with pytest.raises(RecipeError, match=r"matches no module\n  got: 'hed'\n  expected: did you mean 'head'"):
        compressed(program, "w8", modules="hed")


def test_a_setting_that_the_scheme_says_is_refused(program: Program) -> None:
    with pytest.raises(RecipeError, match=r"the scheme says this already\s+got: bits"):
        compressed(program, "w8", bits=4)


@pytest.mark.parametrize("scheme", ["w8", "w4", "w4g32"])
def test_weights_are_restored_slice_by_slice_as_their_operation_does(
    program: Program, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_integers, "RESTORED", 300)
    found = compressed(program, scheme)
    weights = stored_weights(found)
    assert weights
    for stored in weights:
        values = [found.tensor(arg) if isinstance(arg, Node) else arg for arg in stored.node.args]
        assert torch.equal(stored.restored, stored.node.target(*values))


# What targets make of them


def test_rows_are_looked_up_before_they_are_restored(program: Program) -> None:
    for scheme in ("w8", "w4", "w4g32"):
        before = compressed(program, scheme)
        result = run_passes(before, [GatherRows()])
        assert result.reports[0].report.rewrites == 1
        assert error_db(before, result.program) > 130
        lookups = result.program.graph.find_nodes(op="call_function", target=aten.embedding.default)
        tables = [result.program.tensor(node.args[0]) for node in lookups]
        assert [table.dtype for table in tables] == [torch.int8, torch.float32]
        assert tables[0].shape == (50, 64 if scheme == "w8" else 32), "two of 4 bits in a byte"


def test_weights_that_no_kernel_takes_packed_are_spelled_out(program: Program) -> None:
    w8 = run_passes(compressed(program, "w8"), [SpellOutWeights()])
    assert not stored_weights(w8.program)
    assert error_db(compressed(program, "w8"), w8.program) > 130
    w4 = run_passes(compressed(program, "w4"), [GatherRows(), SpellOutWeights()])
    kept = {stored.name.split("_")[0] for stored in stored_weights(w4.program)}
    assert kept == {"head", "up", "odd"}, "linear layers stay, the convolution does not"


def test_a_maximum_stands_between_a_norm_and_stored_weights(program: Program) -> None:
    before = compressed(program, "w4")
    result = run_passes(before, [KeepWeights()])
    (norm,) = result.program.graph.find_nodes(op="call_function", target=aten.layer_norm.default)
    assert [user.target for user in norm.users] == [aten.clamp.default]
    assert torch.equal(before.run(ids())["output_0"], result.program.run(ids())["output_0"])
    assert run_passes(program, [KeepWeights()]).reports[0].report.rewrites == 0, "float weights may be folded"


@pytest.mark.parametrize(
    ("scheme", "known", "nearest"),
    [
        ("w2g32", ("fp32", "w8", "w4", "w4g32"), "w4g32"),
        ("w2g32", ("fp32", "w8"), "w8"),
        ("w2g32", ("fp32", "w8a8"), None),
        ("bf16", ("fp32", "fp16", "w8"), "fp16"),
        ("bf16", ("fp32", "w8a8"), "fp32"),
        ("w8a16", ("fp32", "w8a8", "w8"), "w8"),
    ],
)
def test_the_nearest_scheme_has_more_bits_of_the_same_kind(
    scheme: str, known: tuple[str, ...], nearest: str | None
) -> None:
    assert nearest_scheme(scheme, known) == nearest


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rows_of_a_table_are_looked_up_packed_and_restored_exactly(bits: int) -> None:
    torch.manual_seed(1)
    tokens = torch.randint(0, 50, (2, 7))
    table = nn.Sequential(nn.Embedding(50, 32))
    recipe = [{"pass": "quantize-weights", "bits": bits, "group": 0 if bits == 8 else 16}]
    program = ew.compress(ew.capture(table, (tokens,)), recipe).program
    gathered = run_passes(program, [GatherRows()]).program
    stored = max(gathered.tensors().values(), key=lambda tensor: tensor.numel() * (tensor.dtype == torch.int8))
    assert stored.shape == (50, 32 * bits // 8)
    name = program.inputs[0].name
    torch.testing.assert_close(gathered.run({name: tokens}), program.run({name: tokens}), rtol=0, atol=0)
