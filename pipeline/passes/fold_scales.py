"""Fold a constant factor or offset of each channel into the convolution or linear layer before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import add_constant, aten, replace, value_of
from edgewright.pipeline.program import Program

# The axis of the weight that holds the output channels.
OUTPUT_AXIS = {
    aten.conv1d.default: 0,
    aten.conv2d.default: 0,
    aten.conv3d.default: 0,
    aten.linear.default: 0,
    aten.conv_transpose2d.input: 1,
}
FACTOR, OFFSET = aten.mul.Tensor, aten.add.Tensor


@dataclass(frozen=True)
class FoldScales:
    """Given: mul(linear(x, w, b), c) or add(linear(x, w, b), c), c a number, or a constant with one a channel.
    Result: linear(x, w * c, b * c) or linear(x, w, b + c).

    Layer scales (ConvNeXt, BEiT), frozen batch norms (DETR) and scaled queries (CLIP) end so. Converters do the same
    when they see it, and then store the product in float32 where the factors were float16.
    """

    name: ClassVar[str] = "fold-scales"
    runs_after: ClassVar[tuple[str, ...]] = ("drop-identities", "fold-constants", "fold-batchnorm")

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in list(program.graph.nodes):
            found = _layer_and_constant(program, node)
            if found is None:
                continue
            layer, numbers = found
            ones, zeros = torch.ones_like(numbers), torch.zeros_like(numbers)
            scale_outputs(program, layer, *((numbers, zeros) if node.target is FACTOR else (ones, numbers)))
            replace(node, layer)
            rewrites += 1
        return PassReport(rewrites)


def _layer_and_constant(program: Program, node: Node) -> tuple[Node, Tensor] | None:
    """The layer whose channels `node` scales or shifts, and the numbers, (channels,) in float64."""
    if node.target not in (FACTOR, OFFSET) or node.kwargs:
        return None
    for layer, constant in (node.args[:2], node.args[1::-1]):
        if not isinstance(layer, Node) or layer.target not in OUTPUT_AXIS or len(layer.users) > 1:
            continue
        numbers = _numbers(program, constant)
        if numbers is None or not has_constant_weights(layer):
            continue
        axis, dims = channel_axis(layer), value_of(layer).dim()
        channels = value_of(layer).shape[axis]
        shape = [1] * (dims - numbers.dim()) + list(numbers.shape)
        if shape in ([1] * dims, [channels if place == axis else 1 for place in range(dims)]):
            return layer, numbers.double().flatten().expand(channels)
    return None


def _numbers(program: Program, constant: object) -> Tensor | None:
    if isinstance(constant, int | float):
        return torch.tensor(constant, dtype=torch.float64)
    if isinstance(constant, Node) and constant.op == "get_attr":
        numbers = program.tensor(constant).detach()
        return numbers if numbers.dtype == torch.float32 else None
    return None


def channel_axis(layer: Node) -> int:
    """Of its output."""
    weight = layer.args[1]
    assert isinstance(weight, Node), "checked by has_constant_weights"
    dims = value_of(layer).dim()
    return dims - 1 if layer.target is aten.linear.default else dims - value_of(weight).dim() + 1


def has_constant_weights(layer: Node) -> bool:
    if layer.target is aten.conv_transpose2d.input and len(layer.args) > 6 and layer.args[6] != 1:
        return False  # a group's channels are not on one axis of the weight
    weights = [arg for arg in layer.args[1:3] if arg is not None]
    return all(isinstance(arg, Node) and arg.op == "get_attr" for arg in weights)


def scale_outputs(program: Program, layer: Node, factor: Tensor, offset: Tensor) -> None:
    """Make a layer give factor * y + offset instead of y.

    Args:
        factor, offset: float64, shape (output channels,).
    """
    node, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
    assert isinstance(node, Node), "the caller has checked that it is a constant"
    weight = program.tensor(node).detach()
    shape = [1] * weight.dim()
    shape[OUTPUT_AXIS[layer.target]] = len(factor)  # type: ignore[index]
    scaled = (weight.double() * factor.reshape(shape)).to(weight.dtype)
    before = program.tensor(bias).detach().double() if isinstance(bias, Node) else torch.zeros_like(factor)
    shifted = (before * factor + offset).to(weight.dtype)
    name = str(node.target)
    layer.update_arg(1, add_constant(program, name, scaled, layer))
    new_bias = add_constant(program, name.replace("weight", "bias"), shifted, layer)
    layer.args = (*layer.args[:2], new_bias, *layer.args[3:])
