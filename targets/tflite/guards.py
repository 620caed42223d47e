"""Take the maxima away that kept the converter from multiplying stored weights."""

from __future__ import annotations

import numpy as np

from edgewright.pipeline.passes.keep_weights import LEAST
from edgewright.targets.tflite.editing import Editing, GraphEditing


def release_guards(file: Editing) -> None:
    """Given: y = MAXIMUM(x, -3e38), as `keep-weights` put it. Result: x in the place of y, but where y leaves a graph.

    The file is written by then, so that nothing folds; each guard would read and write a whole activation.
    """
    for graph in file.graphs():
        _release(graph)


def _release(graph: GraphEditing) -> None:
    outputs = set(graph.graph.outputs)
    guard = graph.schema.BuiltinOperator.MAXIMUM
    instead: dict[int, int] = {}
    operators = []
    for operator in graph.graph.operators:
        operator.inputs = [instead.get(index, index) for index in operator.inputs]
        (result, *_), sources = operator.outputs, list(operator.inputs)
        if graph.file.kind(operator) == guard and result not in outputs and _is_least(graph, sources[1]):
            instead[result] = sources[0]
        else:
            operators.append(operator)
    graph.graph.operators = operators


def _is_least(graph: GraphEditing, index: int) -> bool:
    is_float = graph.tensor(index).type == graph.schema.TensorType.FLOAT32
    return is_float and graph.data(index) == np.float32(LEAST).tobytes()
