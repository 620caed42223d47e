"""Store the 4-bit weights of integer layers at 4 bits: the converter keeps a byte for each."""

from __future__ import annotations

import copy

import numpy as np

from edgewright.targets.tflite.editing import Editing, GraphEditing
from edgewright.targets.tflite.pack import packed_integers

# The version of each layer to state: what older releases refuse, instead of failing later or computing nonsense. Of
# convolutions it came with such weights. Linear layers have none of their own: LiteRT 1.0 refuses such weights with a
# scale a channel whatever is stated, 1.2 and later compute them, and the next version after came with 2.1.
VERSIONS = {"CONV_2D": 7, "DEPTHWISE_CONV_2D": 7, "FULLY_CONNECTED": 14}


def narrow_weights(file: Editing) -> None:
    """Pack every weight of an integer layer whose integers fit 4 bits; no number changes.

    LiteRT unpacks them to 8 bits and computes in its 8-bit kernels.
    """
    schema = file.schema
    versions = {getattr(schema.BuiltinOperator, name): version for name, version in VERSIONS.items()}
    codes: dict[tuple[int, int], int] = {}  # operator code, version -> place of the code that states it
    buffers: dict[int, int] = {}
    for graph in file.graphs():
        for operator in graph.graph.operators:
            kind = file.kind(operator)
            if kind not in versions or graph.tensor(operator.inputs[0]).type != schema.TensorType.INT8:
                continue
            if not _narrow(graph, operator.inputs[1], buffers):
                continue
            key = operator.opcodeIndex, versions[kind]
            if key not in codes:
                codes[key] = _newer_code(file, *key)
            operator.opcodeIndex = codes[key]


def _narrow(graph: GraphEditing, index: int, buffers: dict[int, int]) -> bool:
    """Make a constant int8 tensor an int4 one, if it can be; True where it is one now."""
    weight, types = graph.tensor(index), graph.schema.TensorType
    if weight.type == types.INT4:  # an earlier reader's
        return True
    integers = np.frombuffer(graph.data(index), np.int8)
    if weight.type != types.INT8 or not len(integers) or integers.min() < -8 or integers.max() > 7:
        return False
    if weight.buffer not in buffers:
        buffers[weight.buffer] = graph.file.add_buffer(packed_integers(integers, 4))
    weight.type, weight.buffer = types.INT4, buffers[weight.buffer]
    return True


def _newer_code(file: Editing, place: int, version: int) -> int:
    """The place of an operator code like that at `place`, of `version` at least."""
    codes = file.model.operatorCodes
    new = copy.copy(codes[place])
    new.version = max(new.version, version)
    codes.append(new)
    return len(codes) - 1
