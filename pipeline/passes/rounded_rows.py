"""Activations that stand in a graph rounded to 8 bits as they come, with scales found at run time."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from torch.fx import Node

from edgewright.pipeline.program import Program

quantized = torch.ops.quantized_decomposed
CHOOSE = quantized.choose_qparams_per_token_asymmetric.default
RANGE = (-128, 127, torch.int8)
# The steps of a rounding, by name: torchao takes seconds to import.
STEPS = frozenset(
    f"{step}.default"
    for kind in ("quantized_decomposed.{}_per_token", "quantized_decomposed.{}_per_channel", "torchao.{}_affine")
    for step in (kind.format("quantize"), kind.format("dequantize"))
)


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
    for chosen in program.graph.find_nodes(op="call_function", target=CHOOSE):
        (scales,) = (part for part in chosen.users if part.args[1] == 0)
        (node,) = (user for user in scales.users if "dequantize" in str(user.target))
        integers = node.args[0]
        assert isinstance(integers, Node), "a tensor by schema"
        source = integers.args[0]
        assert str(integers.target) in STEPS and isinstance(source, Node), "as quantize-dynamic writes it"
        yield RoundedRows(node, source)


def is_rounded_as_it_comes(node: object) -> bool:
    """Whether a value is the `node` of such a rounding."""
    return (
        isinstance(node, Node)
        and "dequantize" in str(node.target)
        and any(part.target is operator.getitem and part.args[0].target is CHOOSE for part in node.all_input_nodes)  # type: ignore[union-attr]
    )
