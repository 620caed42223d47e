"""Spell out integer operators whose kernels round otherwise than the graph does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgewright.targets.tflite.average import average_otherwise
from edgewright.targets.tflite.editing import Editing, GraphEditing
from edgewright.targets.tflite.rescale import rescale_by_product, slope_by_products

Spelling = Callable[[GraphEditing, Any], list[Any]]  # the operators that take the place of one; none where it may stay
SPELLINGS: dict[str, Spelling] = {
    "LEAKY_RELU": slope_by_products,
    "QUANTIZE": rescale_by_product,
    "AVERAGE_POOL_2D": average_otherwise,
}


def respell(file: Editing) -> None:
    """Edit every graph: operators of int8 become what `SPELLINGS` has for them."""
    spellings = {getattr(file.schema.BuiltinOperator, name): spelling for name, spelling in SPELLINGS.items()}
    for graph in file.graphs():
        operators: list[Any] = []
        for operator in graph.graph.operators:
            spelling = spellings.get(file.kind(operator)) if graph.is_integer(operator) else None
            operators += (spelling and spelling(graph, operator)) or [operator]
        graph.graph.operators = operators
