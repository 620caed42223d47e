"""Store the 4-bit weights of integer layers at 4 bits: the converter keeps a byte for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgewright.targets.tflite.pack import packed_integers

# The version of each layer to state: what older releases refuse, instead of failing later or computing nonsense. Of
# convolutions it came with such weights. Linear layers have none of their own: LiteRT 1.0 refuses such weights with a
# scale a channel whatever is stated, 1.2 and later compute them, and the next version after came with 2.1.
VERSIONS = {"CONV_2D": 7, "DEPTHWISE_CONV_2D": 7, "FULLY_CONNECTED": 14}


def narrow_weights(content: bytes) -> bytes:
    """Pack every weight of an integer layer whose integers fit 4 bits; no number changes.

    LiteRT unpacks them to 8 bits and computes in its 8-bit kernels.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    from edgewright.targets.tflite.halve import unused_buffers

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    versions = {getattr(schema.BuiltinOperator, name): version for name, version in VERSIONS.items()}
    codes: dict[tuple[int, int], int] = {}  # operator code, version -> place of the code that states it
    buffers: dict[int, int] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            kind = model.operatorCodes[operator.opcodeIndex].builtinCode
            if kind not in versions or graph.tensors[operator.inputs[0]].type != schema.TensorType.INT8:
                continue
            weight = graph.tensors[operator.inputs[1]]
            if not _narrow(schema, model, weight, buffers):
                continue
            key = operator.opcodeIndex, versions[kind]
            if key not in codes:
                codes[key] = _newer_code(schema, model, *key)
            operator.opcodeIndex = codes[key]
    for buffer in unused_buffers(model):
        buffer.data = None
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _narrow(schema: Any, model: Any, weight: Any, buffers: dict[int, int]) -> bool:
    """Make a constant int8 tensor an int4 one, if it can be; True where it is one now."""
    if weight.type == schema.TensorType.INT4:  # an earlier reader's
        return True
    data = model.buffers[weight.buffer].data
    if weight.type != schema.TensorType.INT8 or data is None or not len(data):
        return False
    integers = np.frombuffer(bytes(data), np.int8)
    if integers.min() < -8 or integers.max() > 7:
        return False
    if weight.buffer not in buffers:
        packed = schema.BufferT()
        packed.data = np.frombuffer(packed_integers(integers, 4), np.uint8)
        buffers[weight.buffer] = len(model.buffers)
        model.buffers.append(packed)
    weight.type, weight.buffer = schema.TensorType.INT4, buffers[weight.buffer]
    return True


def _newer_code(schema: Any, model: Any, place: int, version: int) -> int:
    """The place of an operator code like that at `place`, of `version` at least."""
    old = model.operatorCodes[place]
    new = schema.OperatorCodeT()
    new.builtinCode, new.deprecatedBuiltinCode, new.customCode = (
        old.builtinCode,
        old.deprecatedBuiltinCode,
        old.customCode,
    )
    new.version = max(old.version, version)
    model.operatorCodes.append(new)
    return len(model.operatorCodes) - 1
