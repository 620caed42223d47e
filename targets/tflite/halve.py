"""Store float32 constants that are exact in float16 as float16, the way TFLite expects it."""

from __future__ import annotations

from typing import Any

import numpy as np


def halve_constants(content: bytes, minimum_elements: int = 256) -> bytes:
    """Edit every subgraph: each such constant becomes float16 with a DEQUANTIZE behind it.

    The converter folds float16 weights back to float32; the values say which they were, for nothing else of that size
    is exact in float16.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    halves: dict[int, int] = {}  # a buffer that several graphs read is halved once
    for graph in model.subgraphs:
        _halve(schema, model, graph, halves, minimum_elements)
    for buffer in unused_buffers(model):
        buffer.data = None
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _halve(schema: Any, model: Any, graph: Any, halves: dict[int, int], minimum_elements: int) -> None:
    from edgewright.targets.tflite.boundary import append_operator

    added: list[Any] = []
    for index, tensor in enumerate(list(graph.tensors)):
        data = model.buffers[tensor.buffer].data
        if tensor.type != schema.TensorType.FLOAT32 or data is None or len(data) < 4 * minimum_elements:
            continue
        values = np.frombuffer(bytes(data), np.float32)
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        if tensor.buffer not in halves:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(half.tobytes(), np.uint8)
            halves[tensor.buffer] = len(model.buffers)
            model.buffers.append(buffer)
        stored = schema.TensorT()
        stored.shape, stored.hasRank, stored.type = tensor.shape, True, schema.TensorType.FLOAT16
        stored.name, stored.buffer = tensor.name + b".float16", halves[tensor.buffer]
        graph.tensors.append(stored)
        tensor.buffer = 0
        source = len(graph.tensors) - 1
        added.append(append_operator(schema, model, schema.BuiltinOperator.DEQUANTIZE, source, index))
    graph.operators = [*added, *graph.operators]


def unused_buffers(model: Any) -> list[Any]:
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or ()}
    return [buffer for place, buffer in enumerate(model.buffers) if place not in used]
