"""Give the weight columns that matter most more of the grid, before weights are rounded to few bits (AWQ)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.calibration.batches import require_batches
from edgewright.calibration.lockstep import run_in_lockstep
from edgewright.pipeline.memory import give_back_freed
from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import add_constant
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.passes.shared_inputs import divide_input, readers_by_input
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding.grid import Grid
from edgewright.pipeline.rounding.hessian import hessian_of, output_error

LEAST_GAIN = 0.02
EXPONENTS = 10


@dataclass(frozen=True)
class ScaleSalientChannels:
    """Given: linear(x, W), to be rounded to few bits. Result: linear(x / s, W * s) with s_j = mean|X_j|^a.

    The exponent a is the one of 0, 0.1, ... 1 with the least error at the outputs of all layers that read x, once
    their weights are rounded. A layer norm that only these read takes the division; elsewhere it is a product.

    Scales are searched with the weight that the inputs give each column, as `quantize-weights` does with
    `rounding = "weighted"` and "gptq": a search for the least error of the weights alone would clip the salient ones.

    Args:
        bits, group, signed_scales: of the scheme that follows.
        modules: patterns over module paths.
    Source: Lin 2024, arXiv:2306.00978, section 3.2.
    """

    name: ClassVar[str] = "scale-salient-channels"
    runs_after: ClassVar[tuple[str, ...]] = ("fold-batchnorm", "fold-constants", "drop-identities", "linear-products")
    keeps_values: ClassVar[bool] = True
    bits: int = 4
    group: int = 32
    signed_scales: bool = False
    modules: str = "*"

    def run(self, program: Program, context: Context) -> PassReport:
        require_batches(context.batches, "the search for salient channels")
        patterns = ModulePatterns.of(self.modules, program)
        groups = {
            source: layers
            for source, layers in readers_by_input(program).items()
            if all(patterns.match(layer) for layer in layers)
        }
        skips = [
            Skip(source.name, f"its {_columns(program, layers)} channels are no multiple of {self.group}")
            for source, layers in groups.items()
            if self.group and _columns(program, layers) % self.group
        ]
        groups = {
            source: layers
            for source, layers in groups.items()
            if not self.group or not _columns(program, layers) % self.group
        }
        factors: dict[Node, Tensor | None] = {}
        influence = context.influence.of(program, [layer for layers in groups.values() for layer in layers])

        def decide(source: Node, layers: list[Node], inputs: list[tuple[Any, ...]]) -> None:
            weights = [program.tensor(layer.args[1]).detach() for layer in layers]  # type: ignore[arg-type]
            used = sum(weight.nbytes for weight in weights)
            give_back_freed(used)
            hessians = [hessian_of(layer, inputs, influence.get(layer)) for layer in layers]
            magnitude = torch.stack([row.abs().reshape(-1, row.shape[-1]).mean(0) for row, *_ in inputs]).mean(0)
            pairs = [
                (weight, hessian) for weight, hessian in zip(weights, hessians, strict=True) if hessian is not None
            ]
            grid = Grid(self.bits, self.group, search=True, signed=self.signed_scales and self.bits < 8)
            factors[source] = _best_factor(magnitude, pairs, grid)
            give_back_freed(used)

        run_in_lockstep(
            program,
            context.batches,
            {layers[0]: partial(decide, source, layers) for source, layers in groups.items()},
        )
        rewrites = 0
        for source, layers in groups.items():
            factor = factors[source]
            if factor is None:
                skips.append(Skip(source.name, "no factor makes the rounded layers better"))
                continue
            divide_input(program, source, layers, factor)
            for layer in layers:
                weight = layer.args[1]
                assert isinstance(weight, Node), "chosen by readers_by_input"
                scaled = program.tensor(weight) * factor
                layer.update_arg(1, add_constant(program, str(weight.target), scaled, layer))
            rewrites += 1
        return PassReport(rewrites, tuple(skips))


def _columns(program: Program, layers: list[Node]) -> int:
    return program.tensor(layers[0].args[1]).shape[1]  # type: ignore[arg-type]


def _best_factor(magnitude: Tensor, layers: list[tuple[Tensor, Tensor]], grid: Grid) -> Tensor | None:
    """None where the plain weights are as good, but for `LEAST_GAIN`."""
    best, least = None, (1 - LEAST_GAIN) * _error(torch.ones_like(magnitude), layers, grid)
    for step in range(1, EXPONENTS + 1):
        powered = magnitude.clamp(min=float(magnitude.mean()) * 1e-3).pow(step / EXPONENTS)
        factor = powered / (powered.max() * powered.min()).sqrt()
        error = _error(factor, layers, grid)
        if error < least:
            best, least = factor, error
    return best


def _error(factor: Tensor, layers: list[tuple[Tensor, Tensor]], grid: Grid) -> float:
    total = 0.0
    for weight, hessian in layers:
        scaled = weight * factor
        scales = grid.scales(scaled, torch.diagonal(hessian) / factor.square())
        rounded = grid.round(scaled, scales) * grid.spread(scales, weight.shape[1])
        total += output_error(rounded / factor - weight, hessian)
    return total
