"""What each way to store a weight costs, by one of three measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from edgewright.calibration.lockstep import run_in_lockstep
from edgewright.errors import RecipeError, did_you_mean
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.graph import add_constant
from edgewright.pipeline.passes.layer_weights import LayerWeight, as_rows, from_rows, layer_weights
from edgewright.pipeline.passes.quality_limit import least_sqnr_db, metric_of
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding.grid import Grid
from edgewright.pipeline.rounding.sensitivity import rounding_costs

OUTPUTS, SQNR, METRIC = MEASURES = ("outputs", "sqnr", "metric")
Costs = dict[str, list[float]]


def find_costs(
    measure: str, program: Program, context: Context, weights: Sequence[LayerWeight], grids: Mapping[str, list[Grid]]
) -> Costs:
    """By constant, one cost for each of its grids.

    Args:
        measure: see `MixPrecision.sensitivity`.
    Raises:
        RecipeError: there is no such measure, or no metric for the one that needs it.
    """
    if measure not in MEASURES:
        raise RecipeError("no such sensitivity", got=repr(measure), expected=did_you_mean(measure, MEASURES))
    if measure == OUTPUTS:
        return _expected(program, context, weights, grids)
    if measure == METRIC and context.metric is None:
        raise RecipeError(
            "sensitivity by the metric needs one", got="none", do="name one under [quality], or pass metric="
        )
    best = metric_of(program, context) if measure == METRIC else 0.0

    def cost(rounded: Program) -> float:
        if measure == METRIC:
            return max(0.0, best - metric_of(rounded, context))
        return float(10 ** (-least_sqnr_db(program, rounded, context) / 10))

    first = {found.key: found for found in reversed(weights)}
    return {key: [cost(_with_rounded(program, found, grid)) for grid in grids[key]] for key, found in first.items()}


def _expected(
    program: Program, context: Context, weights: Sequence[LayerWeight], grids: Mapping[str, list[Grid]]
) -> Costs:
    influence = context.influence.of(program, [found.layer for found in weights])
    costs: Costs = {}

    def visit(found: LayerWeight, inputs: list[tuple[Any, ...]]) -> None:
        rows, grid = influence.get(found.layer), grids[found.key]
        weight = program.tensor(found.constant).detach()
        own = [0.0] * len(grid) if rows is None else rounding_costs(found, weight, grid, inputs, rows)
        before = costs.get(found.key, [0.0] * len(own))
        costs[found.key] = [one + other for one, other in zip(before, own, strict=True)]

    run_in_lockstep(program, context.batches, {found.layer: partial(visit, found) for found in weights})
    return costs


def _with_rounded(program: Program, found: LayerWeight, grid: Grid) -> Program:
    """The program with one weight replaced by the numbers that its nearest integers stand for."""
    weight = program.tensor(found.constant)
    rows = as_rows(weight, found.axis)
    scales = grid.scales(rows)
    restored = grid.round(rows, scales) * grid.spread(scales, rows.shape[1])
    work = program.clone()
    value = from_rows(restored, tuple(weight.shape), found.axis)
    for other in layer_weights(work):
        if other.key == found.key:
            other.layer.update_arg(other.place, add_constant(work, f"{found.key}_rounded", value, other.layer))
    work.module.recompile()
    return work
