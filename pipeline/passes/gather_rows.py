"""Look rows of an embedding table up as integers, and restore only these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import add_constant, aten, insert_call, replace, value_of
from edgewright.pipeline.passes.stored_integers import StoredIntegers, stored_weight
from edgewright.pipeline.program import Program


@dataclass(frozen=True)
class GatherRows:
    """Given: embedding(dequantize(q, s), i). Result: embedding(q, i) * embedding(s, i).

    ONNX Runtime would otherwise restore the whole table in each run: 3 to 20 ms for 30,000 rows. Integers of
    4 and 2 bits are looked up two and four in a byte, and taken apart by arithmetic that every runtime has.
    """

    name: ClassVar[str] = "gather-rows"
    runs_after: ClassVar[tuple[str, ...]] = ("quantize-weights",)

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in program.graph.find_nodes(op="call_function", target=aten.embedding.default):
            stored = stored_weight(program, node.args[0])
            if stored is None or stored.block[0] != 1:
                continue
            replace(node, _restored_rows(program, node, stored))
            rewrites += 1
        return PassReport(rewrites)


def _restored_rows(program: Program, node: Node, stored: StoredIntegers) -> Node:
    def call(target: object, *args: object) -> Node:
        return insert_call(program, node, target, *args, like=node)

    table, indices = stored.integers, node.args[1]
    assert isinstance(indices, Node), "a tensor by schema"
    shape = [*value_of(indices).shape, table.shape[1]]
    name = stored.name
    count = 8 // stored.bits
    if stored.bits in (2, 4) and table.shape[1] % count == 0:
        packed = add_constant(program, f"{name}_packed", _several_in_a_byte(table, stored.bits), node)
        rest, parts = call(aten.to.dtype, call(aten.embedding.default, packed, indices), torch.float32), []
        levels = 2.0**stored.bits
        for _ in range(count - 1):
            high = call(aten.floor.default, call(aten.mul.Tensor, rest, 1 / levels))
            low = call(aten.sub.Tensor, rest, call(aten.mul.Tensor, high, levels))
            parts.append(call(aten.sub.Tensor, low, levels / 2))
            rest = high
        rows = call(aten.reshape.default, call(aten.stack.default, [*parts, rest], -1), shape)
    else:
        integers = add_constant(program, f"{name}_rows", table, node)
        rows = call(aten.to.dtype, call(aten.embedding.default, integers, indices), torch.float32)
    scales = add_constant(program, f"{name}_row_scales", stored.scales.reshape(table.shape[0], -1), node)
    factors = call(aten.embedding.default, scales, indices)
    if stored.block[1] == table.shape[1]:
        return call(aten.mul.Tensor, rows, factors)
    blocks = call(aten.reshape.default, rows, [*shape[:-1], -1, stored.block[1]])
    scaled = call(aten.mul.Tensor, blocks, call(aten.unsqueeze.default, factors, -1))
    return call(aten.reshape.default, scaled, shape)


def _several_in_a_byte(table: Tensor, bits: int) -> Tensor:
    """Two numbers of 4 bits, or four of 2, the first lowest and all but the last from 0 on: int8, (rows, fewer)."""
    count = 8 // bits
    packed = table[:, count - 1 :: count]
    for first in reversed(range(count - 1)):
        packed = (packed << bits) + table[:, first::count] + 2 ** (bits - 1)
    return packed
