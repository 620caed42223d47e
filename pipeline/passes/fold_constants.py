"""Compute ahead of time what does not depend on the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import add_constant, replace
from edgewright.pipeline.program import Program

KEPT_NAMESPACES = ("quantized_decomposed", "torchao", "edgewright")
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class FoldConstants:
    """Given: nodes fed by constants alone (arange, comparisons, masks, position indices). Result: one constant.

    This is what lets text encoders through to Core ML, which has no `new_ones`, `alias` or `diff`. Quantized weights
    are left as they are, and so are weights in 16 bits: folding their conversion would undo the compression.

    Args:
        limit_bytes: a result larger than this and larger than what it is made of stays computed.
    """

    name: ClassVar[str] = "fold-constants"
    runs_after: ClassVar[tuple[str, ...]] = ()
    limit_bytes: int = 8 << 20

    def run(self, program: Program, context: Context) -> PassReport:
        values: dict[Node, Tensor] = dict(program.constants())
        folded: list[Node] = []
        skips: list[Skip] = []
        for node in program.graph.nodes:
            if node.op != "call_function" or not _may_fold(node, values):
                continue
            arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                result = node.target(*arguments, **keywords)
            size = result.numel() * result.element_size() if isinstance(result, Tensor) else 0
            made_of = sum(values[arg].numel() * values[arg].element_size() for arg in node.all_input_nodes)
            if not isinstance(result, Tensor):
                continue
            if size > max(self.limit_bytes, made_of):
                skips.append(Skip(node.name, f"the result takes {size} bytes, more than {self.limit_bytes}"))
                continue
            values[node] = result
            folded.append(node)
        for node in reversed(folded):
            if any(user not in values for user in node.users):
                # A name that no operation has.
                replace(node, add_constant(program, f"folded_{node.name}", values[node], node))
        return PassReport(len(folded), tuple(skips))


def _may_fold(node: Node, values: dict[Node, Tensor]) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if target.namespace in KEPT_NAMESPACES or torch.Tag.nondeterministic_seeded in target.tags:
        return False
    if target._schema.is_mutable:
        return False
    if any(arg.op == "get_attr" and arg in values and values[arg].dtype in HALVES for arg in node.all_input_nodes):
        return False
    return all(arg in values for arg in node.all_input_nodes)
