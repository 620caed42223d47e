"""Store float32 constants that are exact in float16 as float16, the way TFLite expects it."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgewright.targets.tflite.editing import Editing, GraphEditing


def halve_constants(file: Editing, minimum_elements: int = 256) -> None:
    """Edit every graph: each such constant becomes float16 with a DEQUANTIZE behind it.

    The converter folds float16 weights back to float32; the values say which they were, for nothing else of that size
    is exact in float16. Those that it leaves stand behind a CAST, which XNNPACK does not take, nor the layer behind it:
    a linear layer then needs 3.4 times float32's time, with DEQUANTIZE the same.
    """
    halves: dict[int, int] = {}  # a buffer that several graphs read is halved once
    for graph in file.graphs():
        _halve(graph, halves, minimum_elements)
        graph.graph.operators = [_dequantized(graph, operator) for operator in graph.graph.operators]


def _dequantized(graph: GraphEditing, operator: Any) -> Any:
    types = graph.schema.TensorType
    if graph.file.kind(operator) != graph.schema.BuiltinOperator.CAST:
        return operator
    (source,), (result,) = operator.inputs, operator.outputs
    widens = (graph.tensor(source).type, graph.tensor(result).type) == (types.FLOAT16, types.FLOAT32)
    return graph.dequantize(source, result) if widens and graph.data(source) else operator


def _halve(graph: GraphEditing, halves: dict[int, int], minimum_elements: int) -> None:
    types, added = graph.schema.TensorType, []
    for index, tensor in enumerate(list(graph.graph.tensors)):
        data = graph.data(index) if tensor.type == types.FLOAT32 else b""
        if len(data) < 4 * minimum_elements:
            continue
        values = np.frombuffer(data, np.float32)
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        if tensor.buffer not in halves:
            halves[tensor.buffer] = graph.file.add_buffer(half.tobytes())
        stored = graph.add_tensor(tensor.name + b".float16", tensor.shape, types.FLOAT16, buffer=halves[tensor.buffer])
        tensor.buffer = 0
        added.append(graph.dequantize(stored, index))
    graph.graph.operators = [*added, *graph.graph.operators]
