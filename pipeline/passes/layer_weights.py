"""The constants that weight quantization is about: weights of layers and tables of embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.graph import aten, is_floating
from edgewright.pipeline.program import Program

# Where each operation has its weight, and the weight's axis of output channels.
WEIGHTS = {
    aten.linear.default: (1, 0),
    aten.conv1d.default: (1, 0),
    aten.conv2d.default: (1, 0),
    aten.conv3d.default: (1, 0),
    aten.conv_transpose1d.default: (1, 1),
    aten.conv_transpose2d.input: (1, 1),
    aten.embedding.default: (0, 0),
}


@dataclass(frozen=True)
class LayerWeight:
    """A layer with a constant float weight: `constant` is the get_attr node, `axis` that of the output channels."""

    layer: Node
    place: int
    constant: Node
    axis: int

    @property
    def key(self) -> str:
        """The constant's name: layers that share a weight have the same."""
        return str(self.constant.target)


def layer_weights(program: Program) -> Iterator[LayerWeight]:
    """Every layer whose weight is a float constant, in the graph's order."""
    for node in program.graph.nodes:
        if node.op != "call_function" or node.target not in WEIGHTS:
            continue
        place, axis = WEIGHTS[node.target]
        constant = node.args[place]
        if isinstance(constant, Node) and constant.op == "get_attr" and is_floating(node):
            yield LayerWeight(node, place, constant, axis)


def as_rows(weight: Tensor, axis: int) -> Tensor:
    """(output channels, the rest), as grids take it."""
    return weight.detach().movedim(axis, 0).flatten(1)


def from_rows(rows: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """The inverse of `as_rows`: a tensor of `shape`."""
    moved = (shape[axis], *(size for place, size in enumerate(shape) if place != axis))
    return rows.reshape(moved).movedim(0, axis).contiguous()
