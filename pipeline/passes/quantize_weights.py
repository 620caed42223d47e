"""Store weights as integers of few bits; arithmetic stays in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import Node

from edgewright.calibration.batches import require_batches
from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.correct_biases import correct_biases
from edgewright.pipeline.passes.layer_weights import LayerWeight, layer_weights
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.passes.store_weights import Rounding, grid_for
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding import check_rounding
from edgewright.pipeline.rounding.grid import Grid


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
            earlier ones, each layer on what the quantized ones before it give for the calibration data; or "adaround":
            up or down for each weight, learned for the least error at the layer's output.
        damping, act_order: of GPTQ.
        weigh_rows: both count rows of the inputs by what the program's outputs owe them: padding not at all.
        search: scales with the least squared error, not max|w| / m. Off for 8 bits, where it changes nothing.
        signed_scales: scales of fewer than 8 bits may be below 0, so that the largest weight of each group gets the
            integer that reaches farthest: -8 of 4 bits, where 7 is the highest. A release whose targets all compute
            such scales gets them unasked.
        minimum_elements: smaller weights stay as they are.
        correct_biases: afterwards, give each channel of a layer's output the mean back that rounding took from it.
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
    signed_scales: bool = False
    minimum_elements: int = 256
    correct_biases: bool = False

    def run(self, program: Program, context: Context) -> PassReport:
        check_rounding(self.rounding, context.batches)
        if self.correct_biases:
            require_batches(context.batches, "bias correction")
            before = program.clone()
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
            shape = tuple(weight.shape)
            grid, reason = grid_for(shape, self.bits, self.group, search=self.search, signed_scales=self.signed_scales)
            if reason:
                skips.append(Skip(str(found.constant.target), reason))
            chosen[found.layer] = found, grid
        Rounding(self.rounding, self.damping, self.act_order, self.weigh_rows).store(program, context, chosen)
        if self.correct_biases:
            correct_biases(before, program, context)
        return PassReport(len(chosen), tuple(skips))
