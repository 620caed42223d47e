"""Small edits that many passes share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.memory import spilled
from edgewright.pipeline.program import Program

aten = torch.ops.aten
TURNS = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,
        aten.flatten.using_ints,
        aten.permute.default,
        aten.transpose.int,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
    }
)
"""What gives the same numbers another shape or order of axes."""


def value_of(node: Node) -> Tensor:
    """The fake tensor (shape and dtype) that a node produces."""
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        raise TypeError(f"{node.name} produces a {type(value).__name__}, not a tensor")
    return value


def is_floating(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def add_constant(program: Program, name: str, value: Tensor, like: Node) -> Node:
    """A get_attr node before `like`, reading a new buffer called `name` (made unique), `spilled` where it is large."""
    unique, count = name.replace(".", "_"), 0
    while hasattr(program.module, unique):
        count += 1
        unique = f"{name.replace('.', '_')}_{count}"
    program.module.register_buffer(unique, spilled(value))
    with program.graph.inserting_before(like):
        node = program.graph.get_attr(unique)
    node.meta["val"] = value.detach().to("meta")
    node.meta["nn_module_stack"] = like.meta.get("nn_module_stack", {})
    return node


def insert_call(program: Program, before: Node, target: object, *args: object, like: Node | None = None) -> Node:
    """A call_function node before `before`, with the provenance of `like` (or of `before`)."""
    with program.graph.inserting_before(before):
        node = program.graph.call_function(target, args)  # type: ignore[arg-type]
    origin = like or before
    for key in ("nn_module_stack", "stack_trace", "source_fn_stack"):
        if key in origin.meta:
            node.meta[key] = origin.meta[key]
    # On "meta", since the fake tensors of different tracing modes do not mix.
    shapes: Any = torch.fx.node.map_arg(node.args, lambda arg: torch.empty_like(arg.meta["val"], device="meta"))
    node.meta["val"] = target(*shapes)  # type: ignore[operator]
    return node


def replace(node: Node, new: Node) -> None:
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def module_path(node: Node) -> str:
    """Dotted path of the user's module that the node comes from ("" for the model itself)."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def source_line(node: Node) -> str:
    """The user's source line of a node, as far as the capture recorded it."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").split("\n") if line.strip()]
    return " ".join(lines[-2:])
