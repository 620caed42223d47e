"""Weights that stand in a graph as integers: `dequantize_per_channel`, or torchao's `dequantize_affine` of few bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.rounded_rows import is_rounded_as_it_comes
from edgewright.pipeline.program import Program

BLOCKS = "torchao.dequantize_affine.default"  # by name: torchao takes seconds to import
PER_CHANNEL = "quantized_decomposed.dequantize_per_channel.default"
RESTORED = 1 << 19  # numbers at once: a copy of them and of their scales is at work


@dataclass(frozen=True)
class StoredIntegers:
    """The operands of such a node: the weight is integers * scales, a scale for each block, without zero points.

    Args:
        name: of the constant with the integers.
        integers: int8, any shape; block: its size along each axis; scales: float32, one a block, with as many axes.
        lowest, highest: what the integers may be.
    """

    node: Node
    name: str
    integers: Tensor
    block: tuple[int, ...]
    scales: Tensor
    lowest: int
    highest: int

    @property
    def bits(self) -> int:
        return (self.highest - self.lowest).bit_length()

    @property
    def factors(self) -> Tensor:
        """What the integers are multiplied with: float32, of size 1 along axes that a block takes whole."""
        return self._spread(self.scales)

    def _spread(self, scales: Tensor) -> Tensor:
        for axis, width in enumerate(self.block):
            if 1 < width < self.integers.shape[axis]:
                scales = scales.repeat_interleave(width, axis)
        return scales

    @property
    def restored(self) -> Tensor:
        """The weight: float32, shaped like the integers."""
        if self.block[0] != 1:
            return self.integers * self.factors
        weight = torch.empty(self.integers.shape)
        count = max(1, RESTORED * len(weight) // max(1, weight.numel()))
        for start in range(0, len(weight), count):
            part = slice(start, start + count)
            torch.mul(self.integers[part], self._spread(self.scales[part]), out=weight[part])
        return weight

    @property
    def packed_bytes(self) -> int:
        return (self.integers.numel() * self.bits + 7) // 8

    @property
    def is_weight_only(self) -> bool:
        """Whether what reads it computes in float."""
        return not any(
            isinstance(arg, Node) and arg is not self.node and "dequantize" in str(arg.target)
            for user in self.node.users
            for arg in user.args[:2]
        )

    @property
    def meets_rounded_rows(self) -> bool:
        """Whether all that reads it are layers whose other operand is rounded as it comes."""
        return all(is_rounded_as_it_comes(user.args[0]) for user in self.node.users)


def stored_weight(program: Program, node: object) -> StoredIntegers | None:
    """What a node restores, if it is such a node with a constant and without zero points."""
    if not isinstance(node, Node) or node.op != "call_function" or str(node.target) not in (BLOCKS, PER_CHANNEL):
        return None
    source, scale = node.args[0], node.args[2] if str(node.target) == BLOCKS else node.args[1]
    if not isinstance(source, Node) or source.op != "get_attr" or not isinstance(scale, Node):
        return None
    integers, scales = program.tensor(source), program.tensor(scale)
    if str(node.target) == BLOCKS:
        block, zero_point, lowest, highest = node.args[1], node.args[3], node.args[5], node.args[6]
        widths = tuple(block)  # type: ignore[arg-type]
    else:
        zero_point, axis, lowest, highest = node.args[2:6]
        widths = tuple(1 if place == axis else size for place, size in enumerate(integers.shape))
        scales = scales.reshape([-1 if place == axis else 1 for place in range(integers.dim())])
    if isinstance(zero_point, Node) and bool(program.tensor(zero_point).any()):
        return None
    assert isinstance(lowest, int) and isinstance(highest, int), "by schema"
    return StoredIntegers(node, str(source.target), integers, widths, scales, lowest, highest)


def stored_weights(program: Program) -> list[StoredIntegers]:
    """Every weight that stands so in the graph, in order."""
    found = (stored_weight(program, node) for node in program.graph.nodes)
    return [stored for stored in found if stored is not None]


def looked_up_and_multiplied(program: Program) -> list[StoredIntegers]:
    """Weights of fewer than 8 bits that an embedding and another layer read: those of tied language models."""
    found = []
    for stored in stored_weights(program):
        lookups = [str(user.target) == "aten.embedding.default" for user in stored.node.users]
        if stored.bits < 8 and any(lookups) and not all(lookups):
            found.append(stored)
    return found


def narrow_layers(program: Program) -> list[Node]:
    """What restores the weights of integer layers where these have 4 bits or less: only there a channel has a scale."""
    dequantized = [node for node in program.graph.nodes if str(node.target) == PER_CHANNEL]
    return [node for node in dequantized if (node.args[5] - node.args[4]).bit_length() <= 4]


def has_few_bits(program: Program) -> bool:
    """Whether a weight is stored with fewer than 8 bits, or in groups, or spelled out by `spell-out-weights`."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.to.dtype):
        source = node.args[0]
        if isinstance(source, Node) and source.op == "get_attr":
            tensor = program.tensor(source)
            if tensor.dtype == torch.int8 and int(tensor.min()) >= -8 and int(tensor.max()) <= 7:
                return True
    return any(str(node.target) == BLOCKS for node in program.graph.nodes if node.op == "call_function")


def has_two_bits(program: Program) -> bool:
    """Whether a weight is stored with 2 bits."""
    return any(stored.bits == 2 for stored in stored_weights(program))
