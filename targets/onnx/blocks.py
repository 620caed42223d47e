"""Weights of few bits in ONNX: DequantizeLinear with a scale for each block, over integers at their packed size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgewright.pipeline.passes.stored_integers import has_few_bits, has_two_bits, narrow_layers
from edgewright.pipeline.program import Program

OPSET = 21  # the first with 4-bit integers and blocks
OPSET_OF_TWO_BITS = 25
FLOAT32, INT8, INT4, INT2 = 1, 3, 22, 26  # onnx.TensorProto's
SCALES = {"DequantizeLinear": 1, "Gather": 0}  # where those of groups stand, of products and of tables
RESTORING = ("DequantizeLinear", "Cast")


def opset_for(program: Program, opset: int) -> int:
    """The opset that a program's file needs, `opset` at least."""
    if has_two_bits(program):
        return max(opset, OPSET_OF_TWO_BITS)
    return max(opset, OPSET) if has_few_bits(program) or narrow_layers(program) else opset


def translations(program: Program) -> dict[Any, Callable[..., Any]]:
    """What torch's exporter needs to know about such weights; empty where there are none."""
    if not has_few_bits(program):
        return {}
    import torch
    from onnxscript import opset21

    def dequantize(integers: Any, block: Any, scales: Any, *_: Any, **__: Any) -> Any:
        shape = list(integers.shape)
        split = [axis for axis, (size, width) in enumerate(zip(shape, block, strict=True)) if 1 < width < size]
        if split:
            return opset21.DequantizeLinear(integers, scales, axis=split[0], block_size=int(block[split[0]]))
        kept = next((axis for axis, width in enumerate(block) if width == 1 and shape[axis] > 1), 0)
        flat = opset21.Reshape(scales, opset21.Constant(value_ints=[-1]))
        return opset21.DequantizeLinear(integers, flat, axis=kept)

    return {torch.ops.torchao.dequantize_affine.default: dequantize}


def narrow_weights(model: Any) -> None:
    """Store the 4-bit weights of integer layers at 4 bits.

    Given: DequantizeLinear(q, s, z) with a constant q, int8 of -8..7. Result: DequantizeLinear(Cast(q, int8), s, z), q
    int4: ONNX Runtime casts once, when it opens the file, and fuses the layer to its 8-bit kernel. Without the cast it
    restores the weight in float, and the layer is computed so.
    """
    from onnx import helper, numpy_helper

    constants = {value.name: value for value in model.graph.initializer}
    casts: dict[str, Any] = {}
    for node in model.graph.node:
        name = node.input[0] if node.op_type == "DequantizeLinear" else ""
        if name in constants and name not in casts and constants[name].data_type == INT8:
            values = numpy_helper.to_array(constants[name])
            if values.size and values.min() >= -8 and values.max() <= 7:
                constants[name].raw_data, constants[name].data_type = packed_integers(values, 4), INT4
                casts[name] = helper.make_node("Cast", [name], [f"{name}.int8"], name=f"{name}.cast", to=INT8)
        if name in casts:
            node.input[0] = f"{name}.int8"
    nodes = [*casts.values(), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]  # of values whose dtype changed


def casts_narrow_weights(path: Path) -> bool:
    """Whether a file has weights as `narrow_weights` leaves them."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    narrow = {value.name for value in graph.initializer if value.data_type == INT4}
    return any(node.op_type == "Cast" and node.input[0] in narrow for node in graph.node)


def pack_blocks(model: Any, opset: int) -> None:
    """Store the integers at the packed size that the opset has, and transposed where a product reads them so.

    Given: Transpose(DequantizeLinear(q, s)). Result: DequantizeLinear(q^T, s^T): what ONNX Runtime fuses with a MatMul
    to MatMulNBits, and otherwise computes anew in each run.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {value.name: value for value in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type in RESTORING and node.input[0] in constants]:
        stored = constants[node.input[0]]
        if stored.data_type != INT8 or len(node.input) > 2:
            continue
        users = readers.get(node.output[0], [])
        turned = [user for user in users if user.op_type == "Transpose"]
        alone = len(readers[stored.name]) == 1 and node.output[0] not in outputs
        if (
            node.op_type == "DequantizeLinear"
            and alone
            and users
            and len(turned) == len(users)
            and len(stored.dims) == 2
        ):
            _turn(graph, node, constants, readers)
            for user in turned:
                for reader in readers.get(user.output[0], []):
                    reader.input[:] = [node.output[0] if name == user.output[0] else name for name in reader.input]
                graph.node.remove(user)
        values = numpy_helper.to_array(stored)
        for bits, kind, first in ((2, INT2, OPSET_OF_TWO_BITS), (4, INT4, OPSET)):
            half = 2 ** (bits - 1)
            if opset >= first and values.size and values.min() >= -half and values.max() < half:
                stored.raw_data, stored.data_type = packed_integers(values, bits), kind
                break
    del graph.value_info[:]  # of values whose dtype or shape changed: inferred anew by whoever needs them


def halve_scales(model: Any) -> None:
    """Store scales that are exact in float16 so.

    Given: DequantizeLinear(q, s), and Gather(s, i) of looked up rows. Result: s as float16 behind a Cast, which ONNX
    Runtime computes once, when it opens the file: the numbers and the operations that it makes are the same.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    constants = {value.name: value for value in model.graph.initializer}
    casts: dict[str, Any] = {}
    readers = [(node, SCALES[node.op_type]) for node in model.graph.node if node.op_type in SCALES]
    for node, place in readers:
        name = node.input[place]
        if name in constants and name not in casts and constants[name].data_type == FLOAT32:
            values = numpy_helper.to_array(constants[name])
            halves = values.astype(np.float16)
            if values.size > 1 and np.array_equal(halves.astype(np.float32), values):
                constants[name].CopyFrom(numpy_helper.from_array(halves, name))
                casts[name] = helper.make_node("Cast", [name], [f"{name}.wide"], name=f"{name}.cast", to=FLOAT32)
    for node in model.graph.node:
        node.input[:] = [f"{name}.wide" if name in casts else name for name in node.input]
    nodes = [*casts.values(), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def packed_integers(values: Any, bits: int) -> bytes:
    """Several integers in a byte, the first lowest."""
    import numpy as np

    parts = np.zeros((-(-values.size * bits // 8), 8 // bits), np.uint8)
    parts.reshape(-1)[: values.size] = values.reshape(-1).astype(np.uint8) & (2**bits - 1)
    return bytes(np.bitwise_or.reduce(parts << np.arange(0, 8, bits, dtype=np.uint8), axis=1))


def _turn(graph: Any, node: Any, constants: dict[str, Any], readers: dict[str, list[Any]]) -> None:
    """Transpose a node's integers and scales; what another operation reads as well (a tied table) gets a copy."""
    from onnx import numpy_helper

    for place, name in enumerate(node.input):
        value = numpy_helper.to_array(constants[name])
        if value.ndim != 2:
            continue
        if len(readers[name]) == 1:
            constants[name].CopyFrom(numpy_helper.from_array(value.T.copy(), name))
        else:
            node.input[place] = f"{name}.turned"
            graph.initializer.append(numpy_helper.from_array(value.T.copy(), node.input[place]))
    for attribute in node.attribute:
        if attribute.name == "axis":
            attribute.i = 1 - attribute.i % 2
