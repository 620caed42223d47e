"""Shapes and dtypes through a graph of fixed sizes, computed anew only where something changed since the last time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node
from torch.fx.node import map_arg

KNOWN = "propagated"  # in a node's meta: what its "val" was computed from


def propagate(graph: Graph, example: Sequence[Tensor], read: Callable[[Node], Tensor]) -> tuple[Tensor, ...]:
    """Bring fake tensors of one mode into `meta["val"]` of all nodes; gives those returned.

    Args:
        example: one tensor a placeholder.
        read: the tensor of a get_attr node.
    """
    mode = _mode_of(graph)
    given = iter(example)
    with torch.no_grad(), mode:
        for node in graph.nodes:
            if node.op == "output":
                return tuple(result.meta["val"] for result in node.args[0])
            if node.op == "call_function":
                _call(node)
            else:
                _take(node, next(given) if node.op == "placeholder" else read(node), mode)
    raise ValueError("the graph returns nothing")


def mark_propagated(graph: Graph) -> None:
    """Take the fake tensors that a graph has, all of one mode, for what `propagate` would give."""
    for node in graph.nodes:
        if node.op != "output":
            node.meta[KNOWN] = _origin(node) if node.op == "call_function" else _form(node.meta["val"])


def _mode_of(graph: Graph) -> FakeTensorMode:
    """That of the last time; a new one if there was none, and everything is computed."""
    first = next(iter(graph.nodes))
    if KNOWN in first.meta:
        mode: FakeTensorMode = first.meta["val"].fake_mode
        return mode
    for node in graph.nodes:
        node.meta.pop(KNOWN, None)
    return FakeTensorMode(allow_non_fake_inputs=True)


def _take(node: Node, tensor: Tensor, mode: FakeTensorMode) -> None:
    form = _form(tensor)
    if node.meta.get(KNOWN) != form or node.meta["val"].fake_mode is not mode:
        node.meta["val"] = mode.from_tensor(tensor.detach(), static_shapes=True)
        node.meta[KNOWN] = form


def _call(node: Node) -> None:
    origin = _origin(node)
    if node.meta.get(KNOWN) != origin:
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: source.meta["val"])
        operation: Any = node.target
        node.meta["val"] = operation(*args, **kwargs)
        node.meta[KNOWN] = origin


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}"


def _origin(node: Node) -> str:
    """The operation with its arguments, and the shapes, strides and dtypes of its inputs."""
    values = pytree.tree_leaves([source.meta["val"] for source in node.all_input_nodes])
    shapes = [(value.dtype, *value.shape, *value.stride()) if isinstance(value, Tensor) else value for value in values]
    return f"{node.target} {node.args} {node.kwargs} {shapes}"
