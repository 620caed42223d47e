"""Linear layers by what they read: a factor of its channels can go from the value into all their weights."""

from __future__ import annotations

from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.graph import add_constant, aten, insert_call, is_floating
from edgewright.pipeline.program import Program

LINEAR = aten.linear.default
NORM = aten.layer_norm.default


def readers_by_input(program: Program) -> dict[Node, list[Node]]:
    """The linear layers with constant weights, in order, by the value that they read."""
    groups: dict[Node, list[Node]] = {}
    for layer in program.graph.find_nodes(op="call_function", target=LINEAR):
        source, weight = layer.args[0], layer.args[1]
        if isinstance(source, Node) and isinstance(weight, Node) and weight.op == "get_attr" and is_floating(source):
            groups.setdefault(source, []).append(layer)
    return groups


def divide_input(program: Program, source: Node, layers: list[Node], factor: Tensor) -> None:
    """Divide what `layers` read by `factor`, float32 (channels,): in the norm that only they read, or by a product.

    Their weights are the caller's to multiply.
    """
    if source.target is NORM and set(source.users) == set(layers) and len(source.args) >= 4:
        for place in (2, 3):
            constant = source.args[place]
            if isinstance(constant, Node):
                divided = program.tensor(constant) / factor
                source.update_arg(place, add_constant(program, str(constant.target), divided, source))
        return
    first = min(layers, key=list(program.graph.nodes).index)
    inverse = add_constant(program, f"{source.name}_smoothing", 1.0 / factor, first)
    smoothed = insert_call(program, first, aten.mul.Tensor, source, inverse)
    for layer in layers:
        layer.replace_input_with(source, smoothed)
