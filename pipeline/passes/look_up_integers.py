"""Look embeddings up in the stored integers, and dequantize only what was looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import aten, insert_call, replace
from edgewright.pipeline.program import Program

DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default


@dataclass(frozen=True)
class LookUpIntegers:
    """Given: embedding(dequantize(table, s, 0), ids). Result: float(embedding(table, ids)) * s.

    The same numbers, but no runtime expands the whole table: a vocabulary of 30 000 stays at a byte a weight in the
    file and in memory.
    """

    name: ClassVar[str] = "look-up-integers"
    runs_after: ClassVar[tuple[str, ...]] = ("quantize-static", "train-quantized")

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites, skips = 0, []
        for node in program.graph.find_nodes(op="call_function", target=aten.embedding.default):
            table = node.args[0]
            if not isinstance(table, Node) or table.target is not DEQUANTIZE:
                continue
            stored, scale, zero_point = table.args[:3]
            if zero_point != 0:
                skips.append(Skip(node.name, "its table is not symmetric"))
                continue
            found = insert_call(program, node, aten.embedding.default, stored, *node.args[1:])
            number = insert_call(program, node, aten.to.dtype, found, torch.float32)
            replace(node, insert_call(program, node, aten.mul.Tensor, number, scale))
            rewrites += 1
        return PassReport(rewrites, tuple(skips))
