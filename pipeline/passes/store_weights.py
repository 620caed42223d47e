"""Round chosen weights to their grids and put the integers into the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torchao.quantization.quant_primitives  # noqa: F401  (registers torchao.dequantize_affine)
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.graph import add_constant, insert_call
from edgewright.pipeline.passes.layer_weights import LayerWeight, as_rows, from_rows
from edgewright.pipeline.passes.replace_weights import replace_weights
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding import ADAROUND, GPTQ, NEAREST
from edgewright.pipeline.rounding.adaround import AdaRound
from edgewright.pipeline.rounding.gptq import Gptq
from edgewright.pipeline.rounding.grid import Grid

PER_CHANNEL = torch.ops.quantized_decomposed.dequantize_per_channel.default
BLOCKS = torch.ops.torchao.dequantize_affine.default


@dataclass(frozen=True)
class Rounding:
    """How integers are found: see `QuantizeWeights` for the settings."""

    way: str
    damping: float
    act_order: bool
    weigh_rows: bool

    def store(self, program: Program, context: Context, chosen: Mapping[Node, tuple[LayerWeight, Grid]]) -> None:
        """Replace the weight of each layer by integers and the operation that restores it."""

        def put(found: LayerWeight, grid: Grid, hessians: Tensor | None) -> Node:
            rows = as_rows(program.tensor(found.constant), found.axis)
            parts = [
                self._round(part, None if hessians is None else hessians[place], grid)
                for place, part in enumerate(rows.chunk(1 if hessians is None else len(hessians)))
            ]
            integers, scales = (torch.cat(column) for column in zip(*parts, strict=True))
            return _put(program, found, grid, integers, scales)

        with_inputs = self.way != NEAREST
        replace_weights(program, context, chosen, put, with_inputs=with_inputs, weigh_rows=self.weigh_rows)

    def _round(self, rows: Tensor, hessian: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor]:
        """Integers and scales of rows that read the same inputs."""
        learned: dict[str, Gptq | AdaRound] = {GPTQ: Gptq(self.damping, self.act_order), ADAROUND: AdaRound()}
        if hessian is not None and self.way in learned:
            return learned[self.way].round(rows, hessian, grid)
        scales = grid.scales(rows, None if hessian is None else torch.diagonal(hessian))
        return grid.round(rows, scales), scales


def grid_for(shape: tuple[int, ...], bits: int, group: int, *, search: bool, signed_scales: bool) -> tuple[Grid, str]:
    """The grid of a weight of `shape`, and why it is not the one that was asked for (empty where it is)."""
    few = bits < 8
    if not group:
        return Grid(bits, 0, search and few, signed=signed_scales and few), ""
    if len(shape) != 2:
        return Grid(8), "groups run along the inputs of linear layers: it got 8 bits, one scale an output channel"
    if shape[1] % group:
        return Grid(8), f"its {shape[1]} columns are no multiple of {group}: it got 8 bits, one scale a row"
    return Grid(bits, group, search and few, signed=signed_scales and few), ""


def _put(program: Program, found: LayerWeight, grid: Grid, steps: Tensor, scales: Tensor) -> Node:
    """The integers and scales as constants, and the operation that restores the weight, before the layer: not earlier,
    or all weights would be restored before the first one is used."""
    name, layer = str(found.constant.target), found.layer
    shape = tuple(program.tensor(found.constant).shape)
    integers = add_constant(program, f"{name}_int{grid.bits}", from_rows(steps, shape, found.axis), layer)
    if grid.bits == 8 and not grid.group:
        scale = add_constant(program, f"{name}_scale", scales[:, 0], layer)
        zero_point = add_constant(program, f"{name}_zero_point", torch.zeros(len(scales), dtype=torch.int64), layer)
        channels = (scale, zero_point, found.axis, grid.lowest, grid.highest, torch.int8)
        return insert_call(program, layer, PER_CHANNEL, integers, *channels)
    block = [1 if axis == found.axis else size for axis, size in enumerate(shape)]
    if grid.group:
        block[1] = grid.group
    counts = [size // width for size, width in zip(shape, block, strict=True)]
    scale = add_constant(program, f"{name}_scale", scales.reshape(counts), layer)
    blocks = (block, scale, None, torch.int8, grid.lowest, grid.highest)
    return insert_call(program, layer, BLOCKS, integers, *blocks)
