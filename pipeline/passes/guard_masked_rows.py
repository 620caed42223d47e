"""Attention rows whose keys are all masked: give every runtime PyTorch's zeros."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten, insert_call, value_of
from edgewright.pipeline.program import Program

ATTENTION = aten.scaled_dot_product_attention.default


@dataclass(frozen=True)
class GuardMaskedRows:
    """Given: attention(q, k, v, mask), a computed boolean mask that differs by query. Result: attention(q, k, v, mask |
    ~some) * some, where `some` tells the rows that have a key left.

    A row without any key (a window over padding) gives zeros in PyTorch, an average of all values in Core ML and NaN
    in LiteRT. A mask that is the same for all queries has no such row, unless a whole sequence is padding.
    """

    name: ClassVar[str] = "guard-masked-rows"
    runs_after: ClassVar[tuple[str, ...]] = ("fold-constants",)

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in program.graph.find_nodes(op="call_function", target=ATTENTION):
            mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
            if isinstance(mask, Node) and _may_mask_rows(program, mask):
                _guard(program, node, mask)
                rewrites += 1
        return PassReport(rewrites)


def _may_mask_rows(program: Program, mask: Node) -> bool:
    if value_of(mask).dtype != torch.bool:
        return False
    if mask.op == "get_attr":
        return not bool(program.tensor(mask).any(-1).all())
    while mask.target is aten.expand.default and isinstance(mask.args[0], Node):
        mask = mask.args[0]
    return value_of(mask).dim() > 1 and value_of(mask).shape[-2] != 1


def _guard(program: Program, node: Node, mask: Node) -> None:
    call = partial(insert_call, program, node)
    some = call(aten.any.dim, mask, -1, True)
    open_mask = call(aten.logical_or.default, mask, call(aten.logical_not.default, some))
    node.replace_input_with(mask, open_mask)
    users = list(node.users)
    after = node.next
    kept = insert_call(program, after, aten.to.dtype, some, value_of(node).dtype, like=node)
    result = insert_call(program, after, aten.mul.Tensor, node, kept, like=node)
    for user in users:
        user.replace_input_with(node, result)
