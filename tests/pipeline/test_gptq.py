"""Rounding that knows the layer's inputs: GPTQ, scales fitted to integers, AWQ."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import edgewright as ew
from edgewright.errors import CalibrationError, RecipeError
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.graph import aten
from edgewright.pipeline.passes.stored_integers import stored_weights
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding.borrowed_triangle import factor_below, restore_below
from edgewright.pipeline.rounding.gptq import Gptq
from edgewright.pipeline.rounding.grid import Grid
from edgewright.pipeline.rounding.hessian import hessian_of, hessians_of, output_error
from edgewright.pipeline.rounding.refit import refit_scales
from tests.rounding_problem import error, problem
from tests.small_models import outputs


@given(
    seed=st.integers(0, 10**6), bits=st.sampled_from([2, 3, 4]), group=st.sampled_from([0, 16]), signed=st.booleans()
)
@settings(max_examples=30, deadline=None)
def test_gptq_errs_less_at_the_output_than_the_nearest_integers(seed: int, bits: int, group: int, signed: bool) -> None:
    weight, hessian = problem(seed)
    grid = Grid(bits, group, search=True, signed=signed)
    scales = grid.scales(weight)
    nearest = error(weight, grid.round(weight, scales), scales, hessian, grid)
    integers, fitted = Gptq(damping=0.01).round(weight, hessian, grid)
    assert error(weight, integers, fitted, hessian, grid) < 0.9 * nearest
    assert grid.lowest <= int(integers.min())
    assert int(integers.max()) <= grid.highest
    assert torch.equal(fitted.sign(), scales.sign())
    assert bool((fitted < 0).any()) == signed
    assert not group or torch.equal(fitted, fitted.half().float())


def test_without_correlation_gptq_is_the_nearest_integer() -> None:
    weight, _ = problem(0)
    grid = Grid(4, 16)
    integers, scales = Gptq(refits=0).round(weight, torch.eye(64), grid)
    assert torch.equal(integers, grid.round(weight, scales))


def test_the_order_of_columns_leaves_their_places() -> None:
    weight, hessian = problem(1)
    grid = Grid(8)
    for act_order in (True, False):
        integers, scales = Gptq(act_order=act_order).round(weight, hessian, grid)
        restored = integers * grid.spread(scales, 64)
        assert sqnr_db(weight.numpy(), restored.numpy()) > 35, "8 bits are near every weight"


@given(seed=st.integers(0, 10**6), group=st.sampled_from([0, 16]))
@settings(max_examples=30, deadline=None)
def test_fitted_scales_err_less_than_those_before(seed: int, group: int) -> None:
    weight, hessian = problem(seed)
    grid = Grid(3, group)
    scales = grid.scales(weight)
    integers = grid.round(weight, scales)
    fitted = refit_scales(weight, integers, scales, hessian, grid)
    assert error(weight, integers, fitted, hessian, grid) <= error(weight, integers, scales, hessian, grid) * 1.001


def test_inputs_of_zeros_and_of_one_direction_are_taken() -> None:
    weight = torch.randn(8, 32)
    line = torch.ones(32, 32)
    for hessian in (torch.zeros(32, 32), line):
        integers, scales = Gptq().round(weight, hessian, Grid(4, 16, search=True))
        assert bool(torch.isfinite(scales).all())
        assert integers.shape == (8, 32)


@pytest.mark.parametrize("size", [5, 128, 300])
def test_a_factor_lies_below_the_diagonal_and_is_taken_away_again(size: int) -> None:
    torch.manual_seed(0)
    rows, order, added = torch.randn(2 * size, size), torch.randperm(size), torch.rand(size)
    matrix = rows.T @ rows
    lent = matrix.clone()
    pivots = factor_below(lent, order, added)
    assert pivots is not None
    factor = lent.tril(-1) + torch.diag(pivots)
    torch.testing.assert_close(factor @ factor.T, (matrix + torch.diag(added))[order][:, order], rtol=1e-4, atol=1e-3)
    assert torch.equal(lent.triu(), matrix.triu())
    restore_below(lent)
    assert torch.equal(lent, matrix)


def test_what_is_not_positive_definite_has_no_factor() -> None:
    matrix = -torch.eye(3)
    assert factor_below(matrix, torch.arange(3), torch.zeros(3)) is None
    assert torch.equal(matrix.triu(), -torch.eye(3))


def test_gptq_leaves_the_hessian_as_it_was() -> None:
    weight, hessian = problem(2)
    hessian = (hessian + hessian.T) / 2
    before = hessian.clone()
    Gptq().round(weight, hessian, Grid(4, 16))
    assert torch.equal(hessian, before)


def test_the_hessian_of_a_convolution_is_that_of_its_windows() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    program = ew.capture(model, (torch.randn(2, 3, 9, 7),))
    (layer,) = program.graph.find_nodes(op="call_function", target=aten.conv2d.default)
    images = [torch.randn(2, 3, 9, 7) for _ in range(2)]
    found = hessian_of(layer, [(image, model.weight, model.bias, [2, 2], [1, 1]) for image in images])
    assert found is not None
    difference = torch.randn(4, 27)
    outputs = torch.cat([F.conv2d(image, difference.reshape(4, 3, 3, 3), None, 2, 1) for image in images])
    expected = outputs.square().sum(1).mean()
    torch.testing.assert_close(torch.tensor(output_error(difference, found)), expected)


@pytest.mark.parametrize("groups", [2, 6])
def test_the_hessians_of_a_grouped_convolution_are_those_of_each_groups_windows(groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(6, 12, 3, padding=1, groups=groups)
    program = ew.capture(model, (torch.randn(1, 6, 7, 5),))
    (layer,) = program.graph.find_nodes(op="call_function", target=aten.conv2d.default)
    image = torch.randn(1, 6, 7, 5)
    found = hessians_of(layer, [(image, model.weight, model.bias, [1, 1], [1, 1], [1, 1], groups)])
    assert found is not None and len(found) == groups
    difference = torch.randn(12, 6 // groups, 3, 3)
    errors = [
        output_error(part.flatten(1), hessian) for part, hessian in zip(difference.chunk(groups), found, strict=True)
    ]
    exact = F.conv2d(image, difference, None, 1, 1, 1, groups)
    expected = exact.square().mean((0, 2, 3)).reshape(groups, -1).sum(1)
    torch.testing.assert_close(torch.tensor(errors), expected)


def test_gptq_beats_plain_rounding_in_a_depthwise_convolution() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 16, 5, padding=2, groups=16), nn.ReLU(), nn.Conv2d(16, 8, 1))
    smooth = nn.AvgPool2d(3, 1, 1)  # neighboring pixels of real pictures are alike
    images = [{"input": smooth(torch.randn(1, 16, 12, 12)) + 0.3} for _ in range(24)]
    program = ew.capture(model.eval(), images[0])
    step = {"pass": "quantize", "scheme": "w4", "modules": "0"}
    plain, gptq = (
        ew.compress(program, [{**step, **way}], batches=images[:16]).program
        for way in ({"search": False}, {"rounding": "gptq"})
    )
    reached = [
        sqnr_db(outputs(program, images[16:]).numpy(), outputs(one, images[16:]).numpy()) for one in (plain, gptq)
    ]
    assert reached[1] > reached[0] + 2


# Through the recipe


class Tagger(nn.Module):
    """Trained on nothing, but with inputs that lie near a plane, as real activations do."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.up, self.down = nn.Linear(8, 64), nn.Linear(64, 128), nn.Linear(128, 64)
        self.conv = nn.Conv1d(64, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(self.mix(x))))
        return self.conv(y.transpose(1, 2))


@pytest.fixture(scope="module")
def tagger() -> Program:
    torch.manual_seed(0)
    return ew.capture(Tagger().eval(), (torch.randn(1, 12, 8),))


def samples(seed: int, count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"x": torch.randn(1, 12, 8, generator=generator)} for _ in range(count)]


def held_out_db(one: Program, other: Program) -> float:
    found = [
        torch.cat([program.run(batch)["output_0"] for batch in samples(99, 16)]).numpy() for program in (one, other)
    ]
    return sqnr_db(*found)


@pytest.mark.parametrize("scheme", ["w4", "w4g32", "w2g32"])
def test_gptq_beats_plain_rounding_on_held_out_data_at_the_same_size(tagger: Program, scheme: str) -> None:
    plain, gptq = (
        ew.compress(tagger, [{"pass": "quantize", "scheme": scheme, **settings}], batches=samples(1, 32)).program
        for settings in ({"search": False}, {"rounding": "gptq"})
    )
    assert plain.weight_bytes() == gptq.weight_bytes()
    assert held_out_db(tagger, gptq) > held_out_db(tagger, plain) + 2


def test_scaled_channels_beat_plain_rounding_on_held_out_data() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 16))
    program = ew.capture(model, (torch.randn(1, 12, 64),))
    name = program.inputs[0].name
    salient = torch.ones(64)
    salient[::16] = 15.0
    batches = [{name: torch.randn(1, 12, 64) * salient} for _ in range(32)]
    step = {"pass": "quantize", "scheme": "w4g32"}
    plain = ew.compress(program, [{**step, "search": False}]).program
    weighted = {**step, "rounding": "weighted"}
    result = ew.compress(program, [{"pass": "scale-salient-channels"}, weighted], batches=batches[:16])
    scaled = next(ran.report for ran in result.reports if ran.step.name == "scale-salient-channels")
    assert scaled.rewrites > 0
    original, *others = (
        torch.cat([one.run(batch)["output_0"] for batch in batches[16:]]).numpy()
        for one in (program, plain, result.program)
    )
    before, after = (sqnr_db(original, other) for other in others)
    assert after > before + 2
    assert plain.weight_bytes()["int4"] == result.program.weight_bytes()["int4"]


def test_gptq_gives_the_same_integers_each_time(tagger: Program) -> None:
    recipe = [{"pass": "quantize", "scheme": "w4g32", "rounding": "gptq"}]
    one, two = (ew.compress(tagger, recipe, batches=samples(1, 8), seed=3).program for _ in range(2))
    assert one.digest() == two.digest()
    assert len(stored_weights(one)) == 4


@pytest.mark.parametrize(
    "recipe",
    [
        [{"pass": "quantize", "scheme": "w4", "rounding": "gptq"}],
        [{"pass": "scale-salient-channels"}, {"pass": "quantize", "scheme": "w4g32"}],
    ],
)
def test_missing_calibration_data_is_refused_with_a_way_out(tagger: Program, recipe: list[dict[str, str]]) -> None:
    with pytest.raises(CalibrationError, match="got: no batches\n  what to do: name a source"):
        ew.compress(tagger, recipe)


def test_an_unknown_rounding_names_the_known_ones(tagger: Program) -> None:
    with pytest.raises(RecipeError, match="no such rounding\n  got: 'gtpq'\n  expected: did you mean 'gptq'"):
        ew.compress(tagger, [{"pass": "quantize", "scheme": "w4", "rounding": "gtpq"}])
