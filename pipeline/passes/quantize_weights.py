"""Store weights as integers of few bits; arithmetic stays in float."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torchao.quantization.quant_primitives  # noqa: F401  (registers torchao.dequantize_affine)
from torch import Tensor
from torch.fx import Node

from edgewright.calibration.influence import row_influence
from edgewright.calibration.lockstep import run_in_lockstep
from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import add_constant, insert_call
from edgewright.pipeline.passes.layer_weights import LayerWeight, as_rows, from_rows, layer_weights
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding import GPTQ, NEAREST, check_rounding
from edgewright.pipeline.rounding.gptq import Gptq
from edgewright.pipeline.rounding.grid import Grid
from edgewright.pipeline.rounding.hessian import hessian_of

PER_CHANNEL = torch.ops.quantized_decomposed.dequantize_per_channel.default
BLOCKS = torch.ops.torchao.dequantize_affine.default


@dataclass(frozen=True)
class QuantizeWeights:
    """Given: linear(x, w). Result: linear(x, dequantize(q, scales)) with q = round(w / scales) in int8 storage.

    8 bits with one scale an output channel stand as `dequantize_per_channel`, everything else as torchao's
    `dequantize_affine` with the range of its bits. Groups run along the inputs of linear layers and the columns of
    embedding tables. What has no such axis (convolutions), or one that the group does not divide, gets 8 bits with a
    scale an output channel, and the report says so.

    Args:
        bits: 2 to 8.
        group: weights that share a scale; 0: all of an output channel.
        modules: patterns over module paths ("vision.*", or several: "vision.*|head").
        rounding: "nearest"; "weighted", the same with scales searched for the least error at the layer's output, each
            column by its mean squared input; or "gptq": column by column, later ones making up for the errors of
            earlier ones, each layer on what the quantized ones before it give for the calibration data.
        damping, act_order: of GPTQ.
        weigh_rows: both count rows of the inputs by what the program's outputs owe them: padding not at all.
        search: scales with the least squared error, not max|w| / m. Off for 8 bits, where it changes nothing.
        minimum_elements: smaller weights stay as they are.
    Source: Krishnamoorthi 2018, arXiv:1806.08342; Frantar 2023, arXiv:2210.17323.
    """

    name: ClassVar[str] = "quantize-weights"
    runs_after: ClassVar[tuple[str, ...]] = ("fold-batchnorm", "fold-constants", "drop-identities", "linear-products")
    bits: int = 8
    group: int = 0
    modules: str = "*"
    rounding: str = "nearest"
    damping: float = 0.1
    act_order: bool = True
    weigh_rows: bool = True
    search: bool = True
    minimum_elements: int = 256

    def run(self, program: Program, context: Context) -> PassReport:
        check_rounding(self.rounding, context.batches)
        patterns = ModulePatterns.of(self.modules, program)
        skips: list[Skip] = []
        chosen: dict[Node, tuple[LayerWeight, Grid]] = {}
        for found in layer_weights(program):
            weight = program.tensor(found.constant)
            if not patterns.match(found.layer):
                continue
            if weight.numel() < self.minimum_elements:
                skips.append(Skip(str(found.constant.target), f"{weight.numel()} weights are too few to gain from it"))
                continue
            grid, reason = self._grid(found, weight)
            if reason:
                skips.append(Skip(str(found.constant.target), reason))
            chosen[found.layer] = found, grid
        stored: dict[tuple[str, int], Node] = {}  # a weight of two layers is stored once
        influence: dict[Node, list[Tensor]] = {}
        if self.rounding != NEAREST and self.weigh_rows:
            influence = row_influence(program, context.batches, chosen, context.seed)

        def store(found: LayerWeight, grid: Grid, inputs: list[tuple[Any, ...]]) -> None:
            key = str(found.constant.target), found.axis
            if key not in stored:
                rows = as_rows(program.tensor(found.constant), found.axis)
                hessian = hessian_of(found.layer, inputs, influence.get(found.layer)) if inputs else None
                if hessian is not None and self.rounding == GPTQ:
                    integers, scales = Gptq(self.damping, self.act_order).round(rows, hessian, grid)
                else:
                    scales = grid.scales(rows, None if hessian is None else torch.diagonal(hessian))
                    integers = grid.round(rows, scales)
                stored[key] = _store(program, found, grid, integers, scales)
            found.layer.update_arg(found.place, stored[key])

        if self.rounding == NEAREST:
            for found, grid in chosen.values():
                store(found, grid, [])
        else:
            visits = {layer: partial(store, *entry) for layer, entry in chosen.items()}
            run_in_lockstep(program, context.batches, visits)
        return PassReport(len(chosen), tuple(skips))

    def _grid(self, found: LayerWeight, weight: Tensor) -> tuple[Grid, str]:
        """The grid of a weight, and why it is not the one that was asked for."""
        wanted = Grid(self.bits, self.group, self.search and self.bits < 8)
        if not self.group:
            return wanted, ""
        if weight.dim() != 2:
            return Grid(8), "groups run along the inputs of linear layers: it got 8 bits, one scale an output channel"
        if weight.shape[1] % self.group:
            return Grid(8), (
                f"its {weight.shape[1]} columns are no multiple of {self.group}: it got 8 bits, one scale a row"
            )
        return wanted, ""


def _store(program: Program, found: LayerWeight, grid: Grid, steps: Tensor, scales: Tensor) -> Node:
    """The integers and scales as constants before the first use, and the operation that restores the weight."""
    name, first = str(found.constant.target), found.constant
    shape = tuple(program.tensor(first).shape)
    integers = add_constant(program, f"{name}_int{grid.bits}", from_rows(steps, shape, found.axis), first)
    if grid.bits == 8 and not grid.group:
        scale = add_constant(program, f"{name}_scale", scales[:, 0], first)
        zero_point = add_constant(program, f"{name}_zero_point", torch.zeros(len(scales), dtype=torch.int64), first)
        channels = (scale, zero_point, found.axis, grid.lowest, grid.highest, torch.int8)
        return insert_call(program, first, PER_CHANNEL, integers, *channels, like=found.layer)
    block = [1 if axis == found.axis else size for axis, size in enumerate(shape)]
    if grid.group:
        block[1] = grid.group
    counts = [size // width for size, width in zip(shape, block, strict=True)]
    scale = add_constant(program, f"{name}_scale", scales.reshape(counts), first)
    blocks = (block, scale, None, torch.int8, grid.lowest, grid.highest)
    return insert_call(program, first, BLOCKS, integers, *blocks, like=found.layer)
