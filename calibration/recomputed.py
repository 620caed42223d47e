"""Gradients at chosen nodes of a graph, a segment at a time: the memory of one segment's values, not of all layers'."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.program import Program

Receive = Callable[[Node, Tensor], None]


@dataclass
class _Segment:
    """Nodes that are run again for their gradients, and what they read of those before."""

    nodes: list[Node] = field(default_factory=list)
    known: dict[Node, Any] = field(default_factory=dict)


def gradients_at(
    program: Program,
    batch: Mapping[str, Tensor],
    chosen: Collection[Node],
    ends: Callable[[Tensor], Tensor],
    receive: Receive,
) -> None:
    """Run the graph, then go back through it; `receive` gets each chosen node with its gradient, the last one first.

    The graph is cut into about the square root of its nodes. What the segments read is kept on the way; their own
    values are computed again on the way back.

    Args:
        ends: of each output of floating point, in order: the gradient there, shaped like it.
    Source: Chen 2016, arXiv:1604.06174, section 4.
    """
    behind = _behind(program, chosen)
    segments, outputs = _forward(program, batch)
    gradients: dict[Node, Tensor] = {}
    for node, value in outputs:
        if value.is_floating_point():
            _add(gradients, node, ends(value))
    while segments:
        _back(program, segments.pop(), frozenset(chosen), behind, gradients, receive)


def _behind(program: Program, chosen: Iterable[Node]) -> set[Node]:
    found = set(chosen)
    for node in program.graph.nodes:
        if any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _forward(program: Program, batch: Mapping[str, Tensor]) -> tuple[list[_Segment], list[tuple[Node, Tensor]]]:
    """The segments, and the outputs with the nodes that give them."""
    nodes = list(program.graph.nodes)
    last = {source: node for node in nodes for source in node.all_input_nodes}
    length, specs = isqrt(len(nodes)) + 1, iter(program.inputs)
    values: dict[Node, Any] = {}
    segments = [_Segment()]
    with torch.no_grad():
        for node in nodes:
            if node.op == "placeholder":
                values[node] = batch[next(specs).name]
            if node.op != "call_function":
                continue
            # What several values come out of stays in one segment with those that take them apart.
            if len(segments[-1].nodes) >= length and not any(
                isinstance(value, list | tuple) for value in values.values()
            ):
                segments.append(_Segment())
            segment = segments[-1]
            own = set(segment.nodes)
            segment.known |= {
                source: values[source] for source in node.all_input_nodes if source in values and source not in own
            }
            segment.nodes.append(node)
            values[node] = _compute(program, node, values)
            for source in node.all_input_nodes:
                if last[source] is node:
                    values.pop(source, None)
    returned = program.graph.output_node().all_input_nodes
    return segments, [(node, values[node]) for node in returned if isinstance(values.get(node), Tensor)]


def _back(
    program: Program,
    segment: _Segment,
    chosen: Collection[Node],
    behind: Collection[Node],
    gradients: dict[Node, Tensor],
    receive: Receive,
) -> None:
    """Replace the gradients of a segment's values by those of what it reads."""
    if not any(node in gradients for node in segment.nodes):
        return
    values = dict(segment.known)
    starts: dict[Node, Tensor] = {}
    for node, value in segment.known.items():
        if node in behind and isinstance(value, Tensor) and value.is_floating_point():
            starts[node] = values[node] = value.detach().requires_grad_()
    with torch.enable_grad():
        for node in segment.nodes:
            value = values[node] = _compute(program, node, values)
            if node in chosen and isinstance(value, Tensor) and value.is_floating_point():
                if not value.requires_grad:
                    value.requires_grad_()
                value.register_hook(partial(receive, node))  # type: ignore[no-untyped-call]
    ends = [(values[node], gradients.pop(node)) for node in segment.nodes if node in gradients]
    reached = [(value, gradient) for value, gradient in ends if value.requires_grad]
    if reached:
        torch.autograd.backward([value for value, _ in reached], [gradient for _, gradient in reached])
    for node, start in starts.items():
        if start.grad is not None:
            _add(gradients, node, start.grad)


def _add(gradients: dict[Node, Tensor], node: Node, gradient: Tensor) -> None:
    gradients[node] = gradients[node] + gradient if node in gradients else gradient


def _compute(program: Program, node: Node, values: Mapping[Node, Any]) -> Any:
    def value(source: Node) -> Any:
        # Detached: a parameter would get a gradient as well.
        return program.tensor(source).detach() if source.op == "get_attr" else values[source]

    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), value)
    return node.target(*args, **kwargs)  # type: ignore[operator]
