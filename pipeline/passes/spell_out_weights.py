"""Spell the restoring of weight-only integers out as a cast and a multiplication."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import add_constant, aten, insert_call, replace
from edgewright.pipeline.passes.stored_integers import stored_weight
from edgewright.pipeline.program import Program


@dataclass(frozen=True)
class SpellOutWeights:
    """Given: linear(x, dequantize(q, s)) with x in float. Result: linear(x, float32(q) * s).

    ONNX Runtime from 1.20 on makes an operation of a dequantized weight and its product that rounds the *activations*
    to 8 bits as well: 45 dB, too coarse beside 8-bit weights. A cast and a multiplication it computes once, when the
    file is opened: exact, as fast as float32 (a DequantizeLinear in each run took 2.7 times as long), in every release.
    Linear layers of fewer bits stay: beside their rounding that of the activations is small, and the operation is
    fast and keeps them packed in memory.
    """

    name: ClassVar[str] = "spell-out-weights"
    runs_after: ClassVar[tuple[str, ...]] = ("quantize-weights", "gather-rows")

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in list(program.graph.nodes):
            stored = stored_weight(program, node)
            if stored is None or not stored.is_weight_only:
                continue
            if stored.bits < 8 and all(user.target is aten.linear.default for user in node.users):
                continue
            source = node.args[0]
            assert isinstance(source, Node), "a constant"
            wide = insert_call(program, node, aten.to.dtype, source, torch.float32)
            factor = add_constant(program, f"{stored.name}_factor", stored.factors, node)
            replace(node, insert_call(program, node, aten.mul.Tensor, wide, factor))
            rewrites += 1
        return PassReport(rewrites)
