"""Store weights as indices into tables of a few values; arithmetic stays in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.calibration.batches import require_batches
from edgewright.errors import RecipeError
from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import add_constant, insert_call
from edgewright.pipeline.passes.layer_weights import LayerWeight, as_rows, from_rows, layer_weights
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.passes.replace_weights import replace_weights
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding.palette import Palette

LEAST_IMPORTANCE = 0.01  # of the mean: a column that no calibration input excites still wants some value


@dataclass(frozen=True)
class PalettizeWeights:
    """Given: linear(x, w). Result: linear(x, look_up(i, t)) with t the 2**bits values that fit w best, i in uint8.

    The values are those of k-means over a weight's numbers: dense where the weights are, unlike the even steps of
    integers. A table is 4 * vector * 2**bits bytes, so weights whose tables would take what their indices save stay as
    they are, and tables for groups that do not pay, or do not divide the output channels, become one for the weight;
    the report says so. A weight of two layers is stored once.

    Args:
        bits: 1 to 8.
        group: output channels (rows of an embedding) that share a table; 0: all of them.
        vector: weights of neighboring inputs that share an index, which picks as many values: `bits` bits serve them
            all. 1: each weight has its own.
        modules: patterns over module paths ("vision.*", or several: "vision.*|head").
        weighted: errors count by what the calibration data makes of them at the layer's output: by the mean square of
            what their column is multiplied with, and that by what the program's outputs owe each row. Needs data.
        minimum_elements: smaller weights stay as they are.
    Source: Han 2016, arXiv:1510.00149, section 3; weighted: Kim 2023, arXiv:2306.07629, section 4.1 (with the
        layer's own squared error in the place of the Fisher information).
    """

    name: ClassVar[str] = "palettize-weights"
    runs_after: ClassVar[tuple[str, ...]] = ("fold-batchnorm", "fold-constants", "drop-identities", "linear-products")
    bits: int = 4
    group: int = 0
    vector: int = 1
    modules: str = "*"
    weighted: bool = False
    minimum_elements: int = 256

    def run(self, program: Program, context: Context) -> PassReport:
        self._check(context)
        patterns = ModulePatterns.of(self.modules, program)
        skips: list[Skip] = []
        chosen: dict[Node, tuple[LayerWeight, Palette]] = {}
        for found in layer_weights(program):
            if not patterns.match(found.layer):
                continue
            palette, reason = self._palette(found, program.tensor(found.constant))
            if reason:
                skips.append(Skip(str(found.constant.target), reason))
            if palette:
                chosen[found.layer] = found, palette

        def store(found: LayerWeight, palette: Palette, hessians: Tensor | None) -> Node:
            rows = as_rows(program.tensor(found.constant), found.axis).float()
            importance = None
            if hessians is not None and len(hessians) == 1:  # rows of grouped convolutions share none
                importance = _importance(hessians[0])
            tables = palette.tables(rows, importance, context.seed)
            return _store(program, found, palette.indices(rows, tables), tables)

        replace_weights(program, context, chosen, store, with_inputs=self.weighted)
        return PassReport(len(chosen), tuple(skips))

    def _check(self, context: Context) -> None:
        if not 1 <= self.bits <= 8:
            raise RecipeError("a palette has 2**bits values", got=f"bits = {self.bits}", expected="1 to 8")
        if self.group < 0:
            raise RecipeError(
                "a group is a number of output channels", got=f"group = {self.group}", expected="0 or more"
            )
        if self.vector < 1:
            raise RecipeError(
                "an index is for a number of weights", got=f"vector = {self.vector}", expected="1 or more"
            )
        if self.weighted:
            require_batches(context.batches, "a weighted palette")

    def _palette(self, found: LayerWeight, weight: Tensor) -> tuple[Palette | None, str]:
        """What a weight gets (None: it stays), and why that is not what was asked for."""
        count, channels = weight.numel(), weight.shape[found.axis]
        if count < self.minimum_elements:
            return None, f"{count} weights are too few to gain from it"
        inputs, reasons = weight.shape[1 - found.axis], []
        vector = self.vector
        if inputs % vector:
            reasons.append(f"its {inputs} inputs are no multiple of {vector}: each weight got an index")
            vector = 1
        saved, table = 4 * count - (count // vector * self.bits + 7) // 8, 4 * vector * 2**self.bits
        if table >= saved:
            return None, f"a table takes {table} bytes, and indices save {saved}"
        group = self.group
        if group and channels % group:
            reasons.append(f"its {channels} channels are no multiple of {group}: it got one table")
            group = 0
        elif group and table * (channels // group) >= saved:
            reasons.append(f"{channels // group} tables take more than the indices save: it got one")
            group = 0
        inner = weight[0, 0].numel()
        return Palette(self.bits, group, vector, inner), "; ".join(reasons)


def _importance(hessian: Tensor) -> Tensor:
    diagonal = torch.diagonal(hessian)
    return diagonal.clamp(min=LEAST_IMPORTANCE * float(diagonal.mean()))


def _store(program: Program, found: LayerWeight, steps: Tensor, tables: Tensor) -> Node:
    """Indices and tables as constants, and the operation that restores the weight, before the layer: not earlier,
    or all weights would be restored before the first one is used."""
    from edgewright.pipeline.look_up import LOOK_UP

    name, layer = str(found.constant.target), found.layer
    groups, entries, vector = tables.shape
    shape = list(program.tensor(found.constant).shape)
    inputs = 1 - found.axis
    shape[inputs] //= vector
    indices = add_constant(program, f"{name}_index", from_rows(steps, tuple(shape), found.axis), layer)
    blocks = [groups if axis == found.axis else 1 for axis in range(len(shape))]
    table = add_constant(program, f"{name}_palette", tables.reshape(*blocks, entries, vector), layer)
    axis = (inputs,) if vector > 1 else ()
    return insert_call(program, layer, LOOK_UP, indices, table, *axis)
