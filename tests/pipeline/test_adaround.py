"""AdaRound: up or down, learned for the output."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import edgewright as ew
from edgewright.errors import RecipeError
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.rounding.adaround import AdaRound
from edgewright.pipeline.rounding.grid import Grid
from tests.rounding_problem import error, problem
from tests.small_models import SMALL, captured, outputs


@given(seed=st.integers(0, 10**6), bits=st.sampled_from([2, 3, 4, 8]), group=st.sampled_from([0, 16]))
@settings(max_examples=10, deadline=None)
def test_it_errs_less_at_the_output_than_the_nearest_integers(seed: int, bits: int, group: int) -> None:
    weight, hessian = problem(seed)
    grid = Grid(bits, group, search=True)
    scales = grid.scales(weight, torch.diagonal(hessian))
    nearest = grid.round(weight, scales)
    integers, fitted = AdaRound(steps=200).round(weight, hessian, grid)
    assert error(weight, integers, fitted, hessian, grid) < 0.7 * error(weight, nearest, scales, hessian, grid)
    assert grid.lowest <= int(integers.min()) and int(integers.max()) <= grid.highest
    assert bool((fitted > 0).all())


def test_each_weight_goes_up_or_down_and_no_further() -> None:
    weight, hessian = problem(3)
    grid = Grid(8)
    scales = grid.scales(weight)
    integers, _ = AdaRound().round(weight, hessian, grid)
    assert (integers - weight / grid.spread(scales, 64)).abs().max() < 1


def test_where_inputs_do_not_correlate_it_is_the_nearest_integer() -> None:
    weight, _ = problem(0)
    grid = Grid(4, 16)
    integers, _ = AdaRound().round(weight, torch.eye(64), grid)
    assert torch.equal(integers, grid.round(weight, grid.scales(weight)))


@pytest.mark.parametrize("hessian", [torch.zeros(64, 64), torch.ones(64, 64)])
def test_inputs_of_zeros_and_of_one_direction_are_taken(hessian: torch.Tensor) -> None:
    weight, _ = problem(1)
    integers, scales = AdaRound(steps=20).round(weight, hessian, Grid(4, 16, search=True))
    assert bool(torch.isfinite(scales).all()) and integers.shape == weight.shape


def test_through_a_recipe_it_beats_plain_rounding_on_held_out_data_at_the_same_size() -> None:
    model = SMALL["encoder"]
    held_out = model.batches(16, seed=9)
    exact = outputs(captured("encoder"), held_out).numpy()
    step = {"pass": "quantize", "scheme": "w4g32"}
    found = [
        ew.compress(captured("encoder"), [{**step, "rounding": way}], batches=model.batches(32)).program
        for way in ("nearest", "adaround", "adaround")
    ]
    plain, learned, again = found
    assert learned.weight_bytes() == plain.weight_bytes()
    assert learned.digest() == again.digest(), "the same input gives the same integers"
    reached = [sqnr_db(exact, outputs(program, held_out).numpy()) for program in (plain, learned)]
    assert reached[1] > reached[0] + 1


def test_an_unknown_rounding_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="did you mean 'adaround'"):
        ew.compress(captured("mlp"), [{"pass": "quantize", "scheme": "w4", "rounding": "ada-round"}])
