"""Spell out integer operators whose kernels round otherwise than the graph does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgewright.targets.tflite.average import average_otherwise
from edgewright.targets.tflite.editing import Editing
from edgewright.targets.tflite.rescale import rescale_by_product, slope_by_products

Spelling = Callable[[Editing, Any], list[Any]]  # the operators that take the place of one; none where it may stay


def respell(content: bytes) -> bytes:
    """The file with the spellings of `SPELLINGS`; the same object where none is due."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    spellings: dict[int, Spelling] = {
        getattr(schema.BuiltinOperator, name): spelling for name, spelling in SPELLINGS.items()
    }
    if not _has_any(schema, schema.Model.GetRootAs(content, 0), frozenset(spellings)):
        return content
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        editing = Editing(schema, model, graph)
        operators: list[Any] = []
        for operator in graph.operators:
            spelling = spellings.get(editing.kind(operator)) if editing.is_integer(operator) else None
            operators += (spelling and spelling(editing, operator)) or [operator]
        graph.operators = operators
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


SPELLINGS: dict[str, Spelling] = {
    "LEAKY_RELU": slope_by_products,
    "QUANTIZE": rescale_by_product,
    "AVERAGE_POOL_2D": average_otherwise,
}


def _has_any(schema: Any, model: Any, kinds: frozenset[int]) -> bool:
    """Read in place: most files have none, and unpacking a file takes its size in memory again."""
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for place in range(graph.OperatorsLength()):
            operator = graph.Operators(place)
            is_integer = graph.Tensors(operator.Inputs(0)).Type() == schema.TensorType.INT8
            if is_integer and model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode() in kinds:
                return True
    return False
