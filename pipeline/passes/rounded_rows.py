"""Activations that stand in a graph rounded to 8 bits row by row, with scales found at run time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.ao.quantization.fx._decomposed  # noqa: F401  (registers quantized_decomposed)
from torch.fx import Node

from edgewright.pipeline.program import Program

quantized = torch.ops.quantized_decomposed
CHOOSE = quantized.choose_qparams_per_token.default  # symmetric: the zero points that it gives are 0
QUANTIZE = quantized.quantize_per_token.default
DEQUANTIZE = quantized.dequantize_per_token.default
RANGE = (-128, 127, torch.int8)  # max|x| / s is 127, so -128 never comes


@dataclass(frozen=True)
class RoundedRows:
    """Such a value.

    Args:
        node: the rounded value; source: what it was; scales: float32, shaped like it with 1 as the last size.
    """

    node: Node
    source: Node
    scales: Node


def rounded_rows(program: Program) -> list[RoundedRows]:
    """Every such value of a program, in the graph's order."""
    found = []
    for node in program.graph.find_nodes(op="call_function", target=DEQUANTIZE):
        integers, scales = node.args[:2]
        assert isinstance(integers, Node) and isinstance(scales, Node), "tensors by schema"
        source = integers.args[0]
        assert integers.target is QUANTIZE and isinstance(source, Node), "as quantize-dynamic writes it"
        found.append(RoundedRows(node, source, scales))
    return found
