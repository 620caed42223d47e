"""Spell stored integer weights as float constants with a quantize behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import add_constant, insert_call
from edgewright.pipeline.passes.stored_integers import stored_weight
from edgewright.pipeline.program import Program

quantized = torch.ops.quantized_decomposed
QUANTIZE = {
    quantized.dequantize_per_channel.default: quantized.quantize_per_channel.default,
    quantized.dequantize_per_tensor.default: quantized.quantize_per_tensor.default,
}


@dataclass(frozen=True)
class UnfoldWeights:
    """Given: dequantize(q). Result: dequantize(quantize(w)) with w = dequantize(q), which rounds back to the same q.

    LiteRT's converter recognizes quantized layers only in this form; from stored integers it makes a float file.
    Weights of layers that compute in float are left alone: they are stored by `targets/tflite/pack.py`.
    """

    name: ClassVar[str] = "unfold-weights"
    runs_after: ClassVar[tuple[str, ...]] = ("quantize-static", "train-quantized")

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in list(program.graph.nodes):
            stored = node.args[0] if node.args else None
            if node.target not in QUANTIZE or not isinstance(stored, Node) or stored.op != "get_attr":
                continue
            weight = stored_weight(program, node)
            if weight is not None and (weight.is_weight_only or weight.meets_rounded_rows):
                continue
            arguments = torch.fx.node.map_arg(node.args, program.tensor)
            floats = add_constant(program, f"{stored.target}_float", node.target(*arguments), node)
            again = insert_call(program, node, QUANTIZE[node.target], floats, *node.args[1:])
            node.update_arg(0, again)
            rewrites += 1
        return PassReport(rewrites)
