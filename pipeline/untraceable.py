"""What torch.export lets through and no runtime can express, by node, with the user's own line and a way out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

# Arguments of random operations that keep them from drawing: when false, or 0.
SWITCHES = ("train", "training", "dropout", "dropout_p")


def untraceable_nodes(module: GraphModule) -> Iterator[str]:
    """One sentence for each node that stays Python, depends on values in its sizes, or is random."""
    for node in module.graph.nodes:
        fault = _fault(node)
        if node.op == "call_function" and fault:
            yield f"{node.name}: {fault} {_at(node)}".rstrip()


def _fault(node: Node) -> str | None:
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return f"control flow ({node.target}); compute both sides and use torch.where"
    if node.target is torch.ops.aten.item.default:
        return ".item() takes a value out of the graph; use tensor arithmetic"
    if node.meta.get("unbacked_bindings"):
        return f"the sizes of {node.target} depend on values; mark elements with a mask of fixed size (torch.where)"
    if str(node.target).startswith("aten.embedding_renorm"):
        return "max_norm changes the embedding's weights while it runs; leave it out, and clip the weights beforehand"
    if _is_random(node):
        return f"{node.target} draws random numbers, others in each runtime; make them an input of the model"
    return None


def _is_random(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    arguments = node.target._schema.arguments
    values: dict[str, Any] = {argument.name: argument.default_value for argument in arguments}
    values |= dict(zip(values, node.args, strict=False)) | node.kwargs
    return not any(name in values and values[name] in (False, 0.0) for name in SWITCHES)


def _at(node: Node) -> str:
    """The user's file and line of a node, as the capture recorded it."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").split("\n")]
    frames = [line for line in lines if line.startswith('File "') and not line.startswith('File "<')]
    return f"({frames[-1]})" if frames else ""
