"""How much of a program's arithmetic its own graph states in 8 bits: what every artifact of it has to reach."""

from __future__ import annotations

from math import prod

from torch.fx import Node

from edgewright.pipeline.passes.graph import aten, value_of
from edgewright.pipeline.program import Program
from edgewright.targets.accounting import convolution_macs, matmul_macs, transposed_convolution_macs

CONVOLUTIONS = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv3d.default})
TRANSPOSED = frozenset({aten.conv_transpose1d.default, aten.conv_transpose2d.input})
PRODUCTS = frozenset({aten.matmul.default, aten.mm.default, aten.bmm.default})

ATTENTION = aten.scaled_dot_product_attention.default
COUNTED = CONVOLUTIONS | TRANSPOSED | PRODUCTS | {aten.linear.default, ATTENTION}


def node_macs(node: Node) -> int:
    """Multiply-accumulates of one node; 0 for anything but convolutions and matrix products."""
    if node.target not in COUNTED:
        return 0
    shapes = [list(value_of(arg).shape) for arg in node.args[:2] if isinstance(arg, Node)]
    if node.target in CONVOLUTIONS:
        return convolution_macs(value_of(node).shape, shapes[1])
    if node.target in TRANSPOSED:
        return transposed_convolution_macs(shapes[0], shapes[1])
    if node.target is aten.linear.default:
        return prod(value_of(node).shape) * shapes[1][-1]
    if node.target in PRODUCTS:
        return matmul_macs(shapes[0], value_of(node).shape)
    query, key = shapes
    return prod(query[:-1]) * key[-2] * query[-1] * 2


def low_precision_share(program: Program, *, products: bool = True) -> float:
    """Share of multiply-accumulates whose operands are both dequantized integers; open sizes count as the largest.

    Args:
        products: count products of two activations, too; without, what a target can state that has none in integers.
    """
    program = program.at(program.shapes.largest) if program.dims else program
    total = low = 0
    for node in program.graph.nodes:
        macs = node_macs(node) if node.op == "call_function" else 0
        total += macs
        counted = products or node.target not in PRODUCTS
        if macs and counted and all("dequantize" in str(arg.target) for arg in node.args[:2] if isinstance(arg, Node)):
            low += macs
    return low / total if total else 0.0
