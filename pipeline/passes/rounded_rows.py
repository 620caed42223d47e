"""Activations that stand in a graph rounded to 8 bits row by row, with scales found at run time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from torch.fx import Node

from edgewright.pipeline.program import Program

quantized = torch.ops.quantized_decomposed
CHOOSE = quantized.choose_qparams_per_token_asymmetric.default
QUANTIZE = quantized.quantize_per_token.default
DEQUANTIZE = quantized.dequantize_per_token.default
RANGE = (-128, 127, torch.int8)


@dataclass(frozen=True)
class RoundedRows:
    """Such a value.

    Args:
        node: the rounded value; source: what it was.
    """

    node: Node
    source: Node


def rounded_rows(program: Program) -> Iterator[RoundedRows]:
    """Every such value of a program, in the graph's order; one edited on the way is met as it is then."""
    for node in program.graph.find_nodes(op="call_function", target=DEQUANTIZE):
        integers = node.args[0]
        assert isinstance(integers, Node), "a tensor by schema"
        source = integers.args[0]
        assert integers.target is QUANTIZE and isinstance(source, Node), "as quantize-dynamic writes it"
        yield RoundedRows(node, source)
