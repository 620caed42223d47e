"""Store weights as integers of few bits; arithmetic stays in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torchao.quantization.quant_primitives  # noqa: F401  (registers torchao.dequantize_affine)
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import add_constant, insert_call
from edgewright.pipeline.passes.layer_weights import LayerWeight, as_rows, from_rows, layer_weights
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding.grid import Grid

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
        search: scales with the least squared error, not max|w| / m. Off for 8 bits, where it changes nothing.
        minimum_elements: smaller weights stay as they are.
    Source: Krishnamoorthi 2018, arXiv:1806.08342.
    """

    name: ClassVar[str] = "quantize-weights"
    runs_after: ClassVar[tuple[str, ...]] = ("fold-batchnorm", "fold-constants", "drop-identities", "linear-products")
    bits: int = 8
    group: int = 0
    modules: str = "*"
    search: bool = True
    minimum_elements: int = 256

    def run(self, program: Program, context: Context) -> PassReport:
        patterns = ModulePatterns.of(self.modules, program)
        stored: dict[tuple[str, int], Node] = {}  # a weight of two layers is stored once
        rewrites, skips = 0, []
        for found in list(layer_weights(program)):
            name = str(found.constant.target)
            if not patterns.match(found.layer):
                continue
            weight = program.tensor(found.constant).detach()
            if weight.numel() < self.minimum_elements:
                skips.append(Skip(name, f"{weight.numel()} weights are too few to gain from it"))
                continue
            grid, reason = self._grid(found, weight)
            if reason:
                skips.append(Skip(name, reason))
            first = stored.get((name, found.axis))
            if first is None:
                first = stored[name, found.axis] = _store(program, found, weight, grid)
            found.layer.update_arg(found.place, first)
            rewrites += 1
        return PassReport(rewrites, tuple(skips))

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


def _store(program: Program, found: LayerWeight, weight: Tensor, grid: Grid) -> Node:
    """The integers and scales as constants before the first use, and the operation that restores the weight."""
    rows = as_rows(weight, found.axis)
    scales = grid.scales(rows)
    steps = grid.round(rows, scales)
    name, first = str(found.constant.target), found.constant
    integers = add_constant(program, f"{name}_int{grid.bits}", from_rows(steps, tuple(weight.shape), found.axis), first)
    if grid.bits == 8 and not grid.group:
        scale = add_constant(program, f"{name}_scale", scales[:, 0], first)
        zero_point = add_constant(program, f"{name}_zero_point", torch.zeros(len(scales), dtype=torch.int64), first)
        return insert_call(
            program,
            first,
            PER_CHANNEL,
            integers,
            scale,
            zero_point,
            found.axis,
            grid.lowest,
            grid.highest,
            torch.int8,
            like=found.layer,
        )
    block = [1 if axis == found.axis else size for axis, size in enumerate(weight.shape)]
    if grid.group:
        block[1] = grid.group
    shape = [size // width for size, width in zip(weight.shape, block, strict=True)]
    scale = add_constant(program, f"{name}_scale", scales.reshape(shape), first)
    return insert_call(
        program, first, BLOCKS, integers, block, scale, None, torch.int8, grid.lowest, grid.highest, like=found.layer
    )
