"""Give each weight the scheme that it can bear, within a limit of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import ClassVar

import numpy as np

from edgewright.errors import RecipeError
from edgewright.pipeline.encoding import WEIGHT_ONLY, Scheme
from edgewright.pipeline.passes.base import Choice, Context, PassReport, Skip
from edgewright.pipeline.passes.layer_weights import layer_weights
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.passes.quality_limit import QualityLimit, farthest
from edgewright.pipeline.passes.sensitivity import OUTPUTS, find_costs
from edgewright.pipeline.passes.store_weights import Rounding, grid_for
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding import GPTQ, check_rounding
from edgewright.pipeline.rounding.grid import Grid

STEPS = 16  # shares between the widest schemes and the limit, where a limit of quality decides


@dataclass(frozen=True)
class MixPrecision:
    """Given: layers with float weights. Result: each weight in one of `schemes`, so that the expected error of the
    outputs is least and all constants take at most `share` of float32's bytes.

    What each scheme costs at each weight is found first; the choice is an integer program: minimize sum c_ws x_ws,
    with one scheme for each weight and sum b_ws x_ws within the limit. With a limit of quality, shares between that of
    the widest schemes and `share` are tried, and the smallest that keeps it is taken.

    Args:
        schemes: weight-only ones, the first with the fewest bytes ("w4g32|w8").
        share: of the constants' bytes in float32.
        modules: patterns over module paths.
        sensitivity: what a scheme costs at a weight: "outputs", the expected error of the outputs to first order, in
            one run with gradients and one over the data for all weights; or measured with this weight alone rounded,
            a run for each weight and scheme: "sqnr", the noise of the outputs; "metric", the drop of the user's metric.
        max_drop: of the user's metric. least_db: SQNR of the outputs over the calibration data.
        rounding, damping, act_order, signed_scales: as in `quantize-weights`, for the weights as chosen.
        minimum_elements: smaller weights stay as they are.
    Source: Yao 2021, arXiv:2011.10680 (HAWQ-V3); solved by HiGHS.
    """

    name: ClassVar[str] = "mix-precision"
    runs_after: ClassVar[tuple[str, ...]] = ("fold-batchnorm", "fold-constants", "drop-identities", "linear-products")
    schemes: str = "w4g32|w8"
    share: float = 0.2
    modules: str = "*"
    sensitivity: str = OUTPUTS
    max_drop: float = inf
    least_db: float = -inf
    rounding: str = GPTQ
    damping: float = 0.1
    act_order: bool = True
    signed_scales: bool = False
    minimum_elements: int = 256

    def run(self, program: Program, context: Context) -> PassReport:
        check_rounding(GPTQ, context.batches)  # the choice needs data, whatever the rounding
        check_rounding(self.rounding, context.batches)
        limit = QualityLimit(program, context, self.max_drop, self.least_db)
        options = self._options(program, context)
        full, fixed = sum(program.weight_bytes().values()), options.fixed_bytes(program)
        picked = choose(options.costs, options.sizes, self.share * full - fixed)
        missed = ""
        if limit.is_set:
            picked, missed = self._within(limit, program, context, options, fixed, full)
        elif (over := options.total(picked) + fixed - self.share * full) > 0:
            missed = f"the smallest schemes take {over:.0f} bytes more than {self.share:.0%} of float32 allows"
        self._store(program, context, options, picked)
        names = options.schemes
        choices = tuple(
            Choice(key, names[picked[key]], sizes[picked[key]], dict(zip(names, options.costs[key], strict=True)))
            for key, sizes in options.sizes.items()
        )
        skips = tuple(Skip(key, options.fallbacks[key][place]) for key, place in picked.items())
        return PassReport(len(options.layers), tuple(skip for skip in skips if skip.reason), (), choices, missed)

    def _options(self, program: Program, context: Context) -> Options:
        names = self._schemes()
        patterns = ModulePatterns.of(self.modules, program)
        weights = [
            found
            for found in layer_weights(program)
            if patterns.match(found.layer) and program.tensor(found.constant).numel() >= self.minimum_elements
        ]
        grids, fallbacks, sizes = {}, {}, {}
        for found in weights:
            shape = tuple(program.tensor(found.constant).shape)
            made = [
                grid_for(shape, scheme.weight_bits, scheme.group or 0, search=True, signed_scales=self.signed_scales)
                for scheme in map(Scheme.parse, names)
            ]
            grids[found.key] = [grid for grid, _ in made]
            fallbacks[found.key] = [reason for _, reason in made]
            sizes[found.key] = [stored_bytes(shape, found.axis, grid) for grid, _ in made]
        costs = find_costs(self.sensitivity, program, context, weights, grids)
        return Options(names, {found.layer.name: found.key for found in weights}, grids, fallbacks, sizes, costs)

    def _within(
        self, limit: QualityLimit, program: Program, context: Context, options: Options, fixed: float, full: float
    ) -> tuple[dict[str, int], str]:
        """The smallest choice that keeps the limit of quality; the best one, and what it misses, where none does."""
        most = {key: int(np.argmax(sizes)) for key, sizes in options.sizes.items()}
        widest, least = options.total(most), max(self.share * full - fixed, options.total(options.smallest))
        tried: list[dict[str, int]] = []
        for step in range(STEPS):
            picked = choose(options.costs, options.sizes, widest + (least - widest) * step / (STEPS - 1))
            if picked not in tried:
                tried.append(picked)

        def miss(step: int) -> str:
            candidate = program.clone()
            self._store(candidate, context, options, tried[step])
            candidate.erase_dead()
            return limit.miss(candidate)

        reached, reason = farthest(len(tried), miss)
        return tried[max(reached, 0)], f"even the widest schemes: {reason}" if reached < 0 else ""

    def _store(self, program: Program, context: Context, options: Options, picked: Mapping[str, int]) -> None:
        chosen = {
            found.layer: (found, options.grids[found.key][picked[found.key]])
            for found in layer_weights(program)
            if found.layer.name in options.layers
        }
        Rounding(self.rounding, self.damping, self.act_order, weigh_rows=True).store(program, context, chosen)

    def _schemes(self) -> tuple[str, ...]:
        names = tuple(self.schemes.split("|"))
        unknown = [name for name in names if name not in WEIGHT_ONLY]
        if unknown or len(set(names)) < 2:
            raise RecipeError(
                "mixed precision chooses among weight-only schemes",
                got=repr(self.schemes),
                expected="two or more of " + ", ".join(WEIGHT_ONLY) + ', as in "w4g32|w8"',
            )
        return names


@dataclass(frozen=True)
class Options:
    """What each weight may get: by the constant's name, one entry for each scheme.

    Args:
        layers: the constant of each layer, by name.
        fallbacks: why a weight would get something else than the scheme (empty where it would not).
        sizes: bytes; costs: the error that is to be expected.
    """

    schemes: tuple[str, ...]
    layers: Mapping[str, str]
    grids: Mapping[str, list[Grid]]
    fallbacks: Mapping[str, list[str]]
    sizes: Mapping[str, list[int]]
    costs: Mapping[str, list[float]]

    @property
    def smallest(self) -> dict[str, int]:
        return {key: int(np.argmin(sizes)) for key, sizes in self.sizes.items()}

    def total(self, picked: Mapping[str, int]) -> int:
        return sum(self.sizes[key][place] for key, place in picked.items())

    def fixed_bytes(self, program: Program) -> int:
        """Of all other constants."""
        counts = {str(node.target): tensor.numel() for node, tensor in program.constants()}
        return sum(program.weight_bytes().values()) - sum(4 * counts[key] for key in self.sizes)


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


def stored_bytes(shape: tuple[int, ...], axis: int, grid: Grid) -> int:
    """Of integers and scales, as the graph has them."""
    channels, count = shape[axis], prod(shape)
    scales = channels * (count // channels // grid.width(count // channels))
    zero_points = 8 * channels if grid.bits == 8 and not grid.group else 0
    return (count * grid.bits + 7) // 8 + 4 * scales + zero_points
