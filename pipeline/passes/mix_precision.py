"""Give each weight the scheme that it can bear, within a limit of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch.fx import Node

from edgewright.calibration.cautions import Caution
from edgewright.calibration.lockstep import run_in_lockstep
from edgewright.errors import RecipeError
from edgewright.pipeline.encoding import WEIGHT_ONLY, Scheme
from edgewright.pipeline.passes.base import Choice, Context, PassReport, Skip
from edgewright.pipeline.passes.layer_weights import LayerWeight, layer_weights
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.passes.store_weights import Rounding, grid_for
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding import GPTQ, check_rounding
from edgewright.pipeline.rounding.grid import Grid
from edgewright.pipeline.rounding.sensitivity import rounding_costs


@dataclass(frozen=True)
class MixPrecision:
    """Given: layers with float weights. Result: each weight in one of `schemes`, so that the expected error of the
    outputs is least and all constants take at most `share` of float32's bytes.

    What each scheme costs at each weight is found in one run with gradients and one over the data; the choice is an
    integer program: minimize sum c_ws x_ws, with one scheme for each weight and sum b_ws x_ws within the limit.

    Args:
        schemes: weight-only ones, the first with the fewest bytes ("w4g32|w8").
        share: of the constants' bytes in float32.
        modules: patterns over module paths.
        rounding, damping, act_order: as in `quantize-weights`, for the weights as chosen.
        minimum_elements: smaller weights stay as they are.
    Source: Yao 2021, arXiv:2011.10680 (HAWQ-V3); solved by HiGHS.
    """

    name: ClassVar[str] = "mix-precision"
    runs_after: ClassVar[tuple[str, ...]] = ("fold-batchnorm", "fold-constants", "drop-identities", "linear-products")
    schemes: str = "w4g32|w8"
    share: float = 0.2
    modules: str = "*"
    rounding: str = GPTQ
    damping: float = 0.1
    act_order: bool = True
    minimum_elements: int = 256

    def run(self, program: Program, context: Context) -> PassReport:
        check_rounding(GPTQ, context.batches)  # the choice needs data, whatever the rounding
        check_rounding(self.rounding, context.batches)
        names = self._schemes()
        patterns = ModulePatterns.of(self.modules, program)
        weights = {
            found.layer: found
            for found in layer_weights(program)
            if patterns.match(found.layer) and program.tensor(found.constant).numel() >= self.minimum_elements
        }
        grids = {
            layer: [_grid(program, found, scheme) for scheme in names.values()] for layer, found in weights.items()
        }
        costs = _costs(program, context, weights, grids)
        sizes = {
            _key(found): [_bytes(program, found, grid) for grid in grids[layer]] for layer, found in weights.items()
        }
        fixed = sum(program.weight_bytes().values()) - sum(
            4 * program.tensor(found.constant).numel()
            for found in {_key(found): found for found in weights.values()}.values()
        )
        limit = self.share * sum(program.weight_bytes().values()) - fixed
        picked = choose(costs, sizes, limit)
        rounding = Rounding(self.rounding, self.damping, self.act_order, weigh_rows=True)
        rounding.store(
            program, context, {layer: (found, grids[layer][picked[_key(found)]]) for layer, found in weights.items()}
        )
        choices = tuple(
            Choice(key, list(names)[picked[key]], sizes[key][picked[key]], dict(zip(names, costs[key], strict=True)))
            for key in sizes
        )
        least = sum(sizes[key][picked[key]] for key in sizes) - limit
        warnings: tuple[Caution, ...] = ()
        if least > 0:
            text = f"the smallest schemes take {least:.0f} bytes more than {self.share:.0%} of float32 allows"
            warnings = (Caution("all weights", text),)
        skips = tuple(
            Skip(_key(found), reason)
            for found in weights.values()
            if (reason := _fallback(program, found, list(names.values())[picked[_key(found)]]))
        )
        return PassReport(len(weights), skips, warnings, choices)

    def _schemes(self) -> dict[str, Scheme]:
        names = self.schemes.split("|")
        unknown = [name for name in names if name not in WEIGHT_ONLY]
        if unknown or len(set(names)) < 2:
            raise RecipeError(
                "mixed precision chooses among weight-only schemes",
                got=repr(self.schemes),
                expected="two or more of " + ", ".join(WEIGHT_ONLY) + ', as in "w4g32|w8"',
            )
        return {name: Scheme.parse(name) for name in names}


def choose(costs: Mapping[str, Sequence[float]], sizes: Mapping[str, Sequence[int]], limit: float) -> dict[str, int]:
    """The place of the chosen scheme for each weight; the smallest ones where nothing fits the limit."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    keys, count = list(sizes), len(next(iter(sizes.values()), ()))
    if not keys:
        return {}
    smallest = {key: int(np.argmin(sizes[key])) for key in keys}
    if sum(sizes[key][smallest[key]] for key in keys) > limit:
        return smallest
    cost = np.array([costs[key] for key in keys], dtype=np.float64).reshape(-1)
    size = np.array([sizes[key] for key in keys], dtype=np.float64).reshape(1, -1)
    once = np.kron(np.eye(len(keys)), np.ones((1, count)))
    solved = milp(
        cost / max(cost.max(), 1e-300),
        constraints=[LinearConstraint(once, 1, 1), LinearConstraint(size / size.max(), -np.inf, limit / size.max())],
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
    )
    assert solved.x is not None, f"the smallest schemes fit: {solved.message}"
    return {key: int(np.argmax(row)) for key, row in zip(keys, solved.x.reshape(len(keys), count), strict=True)}


def _costs(
    program: Program, context: Context, weights: Mapping[Node, LayerWeight], grids: Mapping[Node, list[Grid]]
) -> dict[str, list[float]]:
    influence = context.influence.of(program, weights)
    costs: dict[str, list[float]] = {}

    def visit(found: LayerWeight, inputs: list[tuple[Any, ...]]) -> None:
        rows = influence.get(found.layer)
        grid = grids[found.layer]
        weight = program.tensor(found.constant).detach()
        own = [0.0] * len(grid) if rows is None else rounding_costs(found, weight, grid, inputs, rows)
        before = costs.get(_key(found), [0.0] * len(own))
        costs[_key(found)] = [one + other for one, other in zip(before, own, strict=True)]

    run_in_lockstep(program, context.batches, {layer: partial(visit, found) for layer, found in weights.items()})
    return costs


def _key(found: LayerWeight) -> str:
    return str(found.constant.target)


def _shape(program: Program, found: LayerWeight) -> tuple[int, ...]:
    return tuple(program.tensor(found.constant).shape)


def _grid(program: Program, found: LayerWeight, scheme: Scheme) -> Grid:
    return grid_for(_shape(program, found), scheme.weight_bits, scheme.group or 0, search=True)[0]


def _fallback(program: Program, found: LayerWeight, scheme: Scheme) -> str:
    return grid_for(_shape(program, found), scheme.weight_bits, scheme.group or 0, search=True)[1]


def _bytes(program: Program, found: LayerWeight, grid: Grid) -> int:
    shape = _shape(program, found)
    channels, count = shape[found.axis], int(np.prod(shape))
    scales = channels * (count // channels // grid.width(count // channels))
    zero_points = 8 * channels if grid.bits == 8 and not grid.group else 0
    return (count * grid.bits + 7) // 8 + 4 * scales + zero_points
