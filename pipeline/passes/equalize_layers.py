"""Give each channel between two layers the same range in both layers' weights (cross-layer equalization)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.fold_scales import OUTPUT_AXIS, channel_axis, has_constant_weights, scale_outputs
from edgewright.pipeline.passes.graph import add_constant, aten, value_of
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.program import Program

READERS = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default})
# f(c x) = c f(x) for c > 0, channel by channel; axis 1 stays that of the channels.
HOMOGENEOUS = frozenset(
    {
        aten.relu.default,
        aten.leaky_relu.default,
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.adaptive_avg_pool2d.default,
        aten.upsample_nearest2d.vec,
    }
)
BOUNDED = frozenset({aten.hardtanh.default, aten.relu6.default})
MOST_ROUNDS = 40
CLOSE = 1e-3


@dataclass(frozen=True)
class EqualizeLayers:
    """Given: conv(f(conv(x, W1, b1)), W2) with f homogeneous: ReLU, pooling, or nothing.
    Result: conv(f(conv(x, W1 / s, b1 / s)), W2 * s), the same function, with s_i = sqrt(r1_i / r2_i).

    r1_i is the largest weight that makes channel i, r2_i the largest that reads it; both become sqrt(r1_i * r2_i). An
    encoding of the whole activation then serves all its channels. Chains (a depthwise convolution between two others)
    are gone through until nothing moves. No data is needed.

    Args:
        modules: patterns over module paths; both layers have to match.
    Source: Nagel 2019, arXiv:1906.04721, section 4.1 (without the absorption of high biases).
    """

    name: ClassVar[str] = "equalize-layers"
    runs_after: ClassVar[tuple[str, ...]] = ("fold-batchnorm", "fold-constants", "drop-identities", "linear-products")
    modules: str = "*"

    def run(self, program: Program, context: Context) -> PassReport:
        patterns = ModulePatterns.of(self.modules, program)
        pairs, skips = [], []
        for layer in _layers(program):
            reader, reason = _sole_reader(layer)
            if reader is None or not patterns.match(layer) or not patterns.match(reader):
                if reason:
                    skips.append(Skip(layer.name, reason))
                continue
            pairs.append((layer, reader))
        weights = {layer: _weight(program, layer) for pair in pairs for layer in pair}
        factors = {pair: torch.ones(_channels(pair[0]), dtype=torch.float64) for pair in pairs}
        for _ in range(MOST_ROUNDS):
            moved = [_equalize(weights, factors, pair) for pair in pairs]
            if max(moved, default=0.0) < CLOSE:
                break
        for (layer, reader), factor in factors.items():
            scale_outputs(program, layer, 1 / factor, torch.zeros_like(factor))
            node = reader.args[1]
            assert isinstance(node, Node), "checked by has_constant_weights"
            scaled = _scale_inputs(program.tensor(node).detach().double(), reader, factor).float()
            reader.update_arg(1, add_constant(program, str(node.target), scaled, reader))
        return PassReport(len(pairs), tuple(skips))


def _layers(program: Program) -> Iterator[Node]:
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target in OUTPUT_AXIS and has_constant_weights(node):
            yield node


def _sole_reader(layer: Node) -> tuple[Node | None, str]:
    """The layer that alone reads a layer's output, through homogeneous operations; else None, and why."""
    axis, node = channel_axis(layer), layer
    while True:
        if len(node.users) != 1:
            return None, f"{node.name} has other readers"
        (user,) = node.users
        if user.target in READERS:
            if node not in user.args[:1] or not has_constant_weights(user):
                return None, "the next layer's weight is computed, not constant"
            read = value_of(node).dim() - 1 if user.target is aten.linear.default else channel_axis(user)
            return (user, "") if axis == read else (None, f"{user.name} reads another axis")
        if user.target in BOUNDED:
            return None, f"{user.name} is bounded: a scaled channel would be cut off elsewhere"
        if user.target is aten.mean.dim and _keeps_channels(user, axis):
            axis = axis if user.args[2:3] == (True,) or axis == 1 else axis - 1
        elif user.target not in HOMOGENEOUS or (axis != 1 and "pool" in str(user.target)):
            return None, f"{user.name} is not homogeneous"
        node = user


def _keeps_channels(mean: Node, axis: int) -> bool:
    dims = value_of(mean.all_input_nodes[0]).dim()
    reduced = mean.args[1]
    return isinstance(reduced, list | tuple) and axis == 1 and all(int(dim) % dims > 1 for dim in reduced)  # type: ignore[arg-type]


def _weight(program: Program, layer: Node) -> Tensor:
    """A copy in float64 to try factors on."""
    return program.tensor(layer.args[1]).detach().double()  # type: ignore[arg-type]


def _channels(layer: Node) -> int:
    return value_of(layer).shape[channel_axis(layer)]


def _groups(layer: Node) -> int:
    return int(layer.args[6]) if len(layer.args) > 6 and layer.target is not aten.linear.default else 1  # type: ignore[arg-type]


def _equalize(weights: dict[Node, Tensor], factors: dict[tuple[Node, Node], Tensor], pair: tuple[Node, Node]) -> float:
    """One step for a pair; how far the factors moved."""
    layer, reader = pair
    axis = OUTPUT_AXIS[layer.target]  # type: ignore[index]
    made = weights[layer].abs().movedim(axis, 0).flatten(1).amax(1)
    read = _by_input(weights[reader], reader).abs().amax(1)
    alive = (made > 0) & (read > 0)  # a channel that nothing makes or reads stays
    step = torch.where(alive, (made / read.clamp(min=1e-300)).sqrt(), 1.0)
    shape = [-1 if place == axis else 1 for place in range(weights[layer].dim())]
    weights[layer] = weights[layer] / step.reshape(shape)
    weights[reader] = _scale_inputs(weights[reader], reader, step)
    factors[pair] = factors[pair] * step
    return float((step.log().abs()).max())


def _by_input(weight: Tensor, reader: Node) -> Tensor:
    """(input channels, weights that read it)."""
    groups = _groups(reader)
    return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).flatten(1)


def _scale_inputs(weight: Tensor, reader: Node, factor: Tensor) -> Tensor:
    """The weight for inputs whose channels were divided by `factor`."""
    groups = _groups(reader)
    shape = (groups, 1, -1, *[1] * (weight.dim() - 2))
    return (weight.reshape(groups, -1, *weight.shape[1:]) * factor.reshape(shape)).flatten(0, 1)
