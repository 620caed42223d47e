"""Store float32 constants that are exact in float16 as float16, the way TFLite expects it."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgewright.targets.tflite.editing import Editing, GraphEditing


def halve_constants(file: Editing, minimum_elements: int = 256) -> None:
    """Edit every graph: each such constant becomes float16 with a DEQUANTIZE behind it.

    The converter folds float16 weights back to float32; the values say which they were, for nothing else of that size
    is exact in float16. Large ones it leaves behind a CAST, those of convolutions behind a TRANSPOSE, too. XNNPACK
    takes neither, nor the layer that reads them: a linear layer then needs 3.4 times float32's time, behind a
    DEQUANTIZE no more than float32's.
    """
    halves: dict[int, int] = {}  # a buffer that several graphs read is halved once
    for graph in file.graphs():
        graph.graph.operators = [_dequantized(graph, operator) for operator in graph.graph.operators]
        _turn_constants(graph)
        _halve(graph, halves, minimum_elements)
    file.share_buffers()


def _dequantized(graph: GraphEditing, operator: Any) -> Any:
    """DEQUANTIZE for a CAST of a float16 constant; any other operator as it is."""
    types = graph.schema.TensorType
    if graph.file.kind(operator) != graph.schema.BuiltinOperator.CAST:
        return operator
    (source,), (result,) = operator.inputs, operator.outputs
    widens = (graph.tensor(source).type, graph.tensor(result).type) == (types.FLOAT16, types.FLOAT32)
    return graph.dequantize(source, result) if widens and graph.data(source) else operator


def _turn_constants(graph: GraphEditing) -> None:
    """Given: y = TRANSPOSE(DEQUANTIZE(constant)) in float16. Result: y = DEQUANTIZE(turned constant)."""
    kinds, types = graph.schema.BuiltinOperator, graph.schema.TensorType
    widened = {
        operator.outputs[0]: operator.inputs[0]
        for operator in graph.graph.operators
        if graph.file.kind(operator) == kinds.DEQUANTIZE and graph.tensor(operator.inputs[0]).type == types.FLOAT16
    }
    operators = []
    for operator in graph.graph.operators:
        turns = graph.file.kind(operator) == kinds.TRANSPOSE and operator.inputs[0] in widened
        if not turns or not (order := graph.data(operator.inputs[1])):
            operators.append(operator)
            continue
        stored = graph.tensor(widened[operator.inputs[0]])
        values = np.frombuffer(graph.data(widened[operator.inputs[0]]), np.float16).reshape(stored.shape)
        values = values.transpose(np.frombuffer(order, np.int32))
        shape, buffer = np.array(values.shape, np.int32), graph.file.add_buffer(values.tobytes())
        place = graph.add_tensor(stored.name, shape, types.FLOAT16, buffer=buffer)
        operators.append(graph.dequantize(place, operator.outputs[0]))
    read = {index for operator in operators for index in operator.inputs} | {*graph.graph.outputs}
    idle = {result: source for result, source in widened.items() if result not in read}
    graph.graph.operators = [operator for operator in operators if operator.outputs[0] not in idle]
    for source in idle.values():
        if not graph.readers(source):
            graph.tensor(source).buffer = 0


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
