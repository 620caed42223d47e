"""Store weights as the integers that the program has them in, in a file that was converted with float ones."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.errors import LoweringError
from edgewright.pipeline.passes.stored_integers import StoredIntegers, stored_weights
from edgewright.pipeline.program import Program
from edgewright.targets.base import Refusal
from edgewright.targets.tflite.editing import Editing, GraphEditing

# How the converter may have turned a weight, by its number of axes: output channels first, inputs last.
TURNS = {
    2: ((0, 1), (1, 0)),
    3: ((0, 2, 1), (1, 2, 0), (0, 1, 2)),
    4: ((0, 2, 3, 1), (1, 2, 3, 0), (2, 3, 1, 0), (0, 1, 2, 3)),
    5: ((2, 3, 4, 1, 0), (0, 2, 3, 4, 1), (0, 1, 2, 3, 4)),
}

ROUNDS_ROWS, FEW_BITS, IN_GROUPS = 12, 13, 14  # versions of FULLY_CONNECTED
ROUNDS_IMAGES = 5  # of CONV_2D
FEW_BITS_RESTORED = 6  # of DEQUANTIZE


@dataclass(frozen=True)
class _Found:
    stored: StoredIntegers
    integers: np.ndarray[Any, Any]  # as the file has the weight, flat
    channels: tuple[int, ...]  # the file's order of the weight's axes


def wide_blocks(program: Program) -> list[Refusal]:
    """Weights of layers in blocks of more than 4 bits: LiteRT dies of them."""
    return [
        Refusal(
            "tflite", stored.node.name, "dequantize", "it has no groups of more than 4 bits", "leave the groups out"
        )
        for stored in stored_weights(program)
        if stored.bits > 4
        and sum(count > 1 for count in stored.scales.shape) > 1
        and not all(str(user.target) == "aten.embedding.default" for user in stored.node.users)
    ]


def pack_weights(file: Editing, weights: Iterable[StoredIntegers]) -> None:
    """Edit every graph: the constants that hold restored weights become integers again.

    Linear layers and convolutions read them directly where the program rounds what they read, as LiteRT's kernels do,
    linear layers also where they have 4 bits: beside their own rounding that of the rows is little. Everything else
    gets a DEQUANTIZE, computed once when the file is opened. The converter keeps no names; a constant is known by its
    values.

    Raises:
        LoweringError: a weight is not in the file.
    """
    weights = list(weights)
    known = {key: found for stored in weights for key, found in _turned(stored)}
    packed: dict[int, tuple[int, _Found]] = {}
    for graph in file.graphs():
        _pack(graph, known, packed)
    missing = {stored.name for stored in weights} - {found.stored.name for _, found in packed.values()}
    if missing:
        raise LoweringError(
            "the converter changed weights that should have been stored as integers",
            got=", ".join(sorted(missing)),
            do="leave their modules out of the step, or deliver to another target",
        )
    file.share_buffers()
    _state_versions(file)


def _turned(stored: StoredIntegers) -> Iterable[tuple[bytes, _Found]]:
    integers, floats = stored.integers.numpy(), stored.restored.numpy()
    window = tuple(range(2, integers.ndim))
    for flipped in ((), window) if window else ((),):  # a transposed convolution of stride 1 becomes a plain one
        for turn in TURNS[integers.ndim]:
            found = _Found(stored, np.flip(integers, flipped).transpose(turn).reshape(-1), turn)
            yield _key(np.flip(floats, flipped).transpose(turn)), found


def _key(values: np.ndarray[Any, Any]) -> bytes:
    return hashlib.sha256((values + np.float32(0)).tobytes()).digest()  # no negative zeros


def _pack(graph: GraphEditing, known: dict[bytes, _Found], packed: dict[int, tuple[int, _Found]]) -> None:
    types, added = graph.schema.TensorType, []
    for index, tensor in enumerate(list(graph.graph.tensors)):
        data = graph.data(index) if tensor.type == types.FLOAT32 else b""
        if not data:
            continue
        if tensor.buffer not in packed:
            found = known.get(_key(np.frombuffer(data, np.float32)))
            if found is None:
                continue
            packed[tensor.buffer] = graph.file.add_buffer(packed_integers(found.integers, found.stored.bits)), found
        place, found = packed[tensor.buffer]
        few, rounded = found.stored.bits <= 4, found.stored.meets_rounded_rows
        direct = (few or rounded) and _reads_directly(graph, index, convolutions=rounded)
        stored = index
        if not direct:
            stored = graph.add_tensor(tensor.name + b".stored", tensor.shape, tensor.type)
            tensor.buffer = 0
            added.append(graph.dequantize(stored, index))
        graph.tensor(stored).type, graph.tensor(stored).buffer = types.INT4 if few else types.INT8, place
        graph.tensor(stored).quantization = _parameters(graph, tensor, found)
        if direct and rounded:
            _round_rows(graph, index)
    graph.graph.operators = [*added, *graph.graph.operators]


def _state_versions(file: Editing) -> None:
    """The operator versions that came with such weights: releases without them refuse the file.

    Unstated, they open it and compute nonsense: measured with a language model, 4 bits with a scale a channel give 6 dB
    in tflite-runtime 2.14 and are right from ai-edge-litert 1.2 on; in groups they give 0 dB there and in 1.2, -3 dB in
    1.4 and 2.0, and are right from 2.1 on. Float rows with 8-bit weights, a scale a channel: 0 dB in tflite-runtime
    2.14, right in ai-edge-litert 1.0.1.
    """
    needed: dict[int, int] = {}
    kinds, types = file.schema.BuiltinOperator, file.schema.TensorType
    rounds = {kinds.FULLY_CONNECTED: ROUNDS_ROWS, kinds.CONV_2D: ROUNDS_IMAGES}
    for graph in file.graphs():
        for operator in graph.graph.operators:
            kind = file.kind(operator)
            read = [graph.tensor(index).type for index in operator.inputs[:2]]
            if kind in rounds and read == [types.FLOAT32, types.INT8]:
                needed[operator.opcodeIndex] = max(needed.get(operator.opcodeIndex, 0), rounds[kind])
            for index in operator.inputs:
                if index < 0 or graph.tensor(index).type != types.INT4:
                    continue
                details = graph.tensor(index).quantization.detailsType
                in_groups = details == file.schema.QuantizationDetails.BlockwiseQuantization
                version = {kinds.FULLY_CONNECTED: IN_GROUPS if in_groups else FEW_BITS}.get(kind, FEW_BITS_RESTORED)
                needed[operator.opcodeIndex] = max(needed.get(operator.opcodeIndex, 0), version)
    for place, version in needed.items():
        code = file.model.operatorCodes[place]
        code.version = max(code.version, version)


def _reads_directly(graph: GraphEditing, index: int, *, convolutions: bool) -> bool:
    """Whether linear layers (and convolutions) alone read a tensor, as their weight."""
    kinds = graph.schema.BuiltinOperator
    readers = [kinds.FULLY_CONNECTED, *[kinds.CONV_2D] * convolutions]
    return all(
        graph.file.kind(operator) in readers and operator.inputs[1] == index for operator in graph.readers(index)
    )


def _round_rows(graph: GraphEditing, index: int) -> None:
    """Let LiteRT round what the readers of a weight read as the program does.

    CONV_2D rounds image by image. Where it multiplies single pixels XNNPACK takes it as FULLY_CONNECTED, which rounds
    pixel by pixel: it is written as that, so that LiteRT's own kernels do the same.
    """
    readers, weight = graph.readers(index), graph.tensor(index)
    of_pixels = [operator for operator in readers if _takes_pixels(graph, operator)]
    place = index
    if of_pixels and len(of_pixels) < len(readers):  # one weight with two strides
        weight, place = copy.copy(weight), len(graph.graph.tensors)
        graph.graph.tensors.append(weight)
    for operator in of_pixels:
        options = graph.schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
        options.keepNumDims = True
        operator.builtinOptions = options
        operator.builtinOptionsType = graph.schema.BuiltinOptions.FullyConnectedOptions
        operator.opcodeIndex = graph.file.opcode("FULLY_CONNECTED")
        operator.inputs = [place if read == index else read for read in operator.inputs]
        weight.shape = [weight.shape[0], weight.shape[-1]]
    for operator in readers:
        if operator.builtinOptionsType == graph.schema.BuiltinOptions.FullyConnectedOptions:
            operator.builtinOptions.asymmetricQuantizeInputs = True  # as XNNPACK's kernels do unasked


def _takes_pixels(graph: GraphEditing, operator: Any) -> bool:
    """Whether an operator is a CONV_2D with a kernel and strides of 1, over all channels at once."""
    if operator.builtinOptionsType != graph.schema.BuiltinOptions.Conv2DOptions:
        return False
    options = operator.builtinOptions
    data, weight = (list(graph.tensor(index).shape) for index in operator.inputs[:2])
    return weight[1:] == [1, 1, data[-1]] and options.strideH == options.strideW == 1


def _parameters(graph: GraphEditing, tensor: Any, found: _Found) -> Any:
    """A scale for each output channel; for each block of columns where there are several."""
    schema, stored = graph.schema, found.stored
    parameters = schema.QuantizationParametersT()
    scales = stored.scales.numpy()
    split = [axis for axis, count in enumerate(scales.shape) if count > 1]
    if len(split) == 2:
        buffer = graph.file.add_buffer(scales.astype(np.float16).tobytes())
        name, shape = tensor.name + b".scales", list(scales.shape)
        details = schema.BlockwiseQuantizationT()
        details.scales = graph.add_tensor(name, shape, schema.TensorType.FLOAT16, buffer=buffer)
        details.zeroPoints, details.blockSize = -1, stored.block[1]
        parameters.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        parameters.details, parameters.quantizedDimension = details, 0
        return parameters
    axis = split[0] if split else 0
    place = found.channels.index(axis)
    parameters.scale = scales.reshape(-1).astype(np.float32)
    parameters.zeroPoint = np.zeros(scales.size, np.int64)
    parameters.quantizedDimension = place + len(tensor.shape) - len(found.channels) if place else 0
    return parameters


def packed_integers(integers: np.ndarray[Any, Any], bits: int) -> bytes:
    """5 bits and more as int8; up to 4 two in a byte, the first in the low half."""
    if bits > 4:
        return integers.astype(np.int8).tobytes()
    halves = np.zeros(integers.size + integers.size % 2, np.uint8)
    halves[: integers.size] = integers.astype(np.uint8) & 15
    return (halves[0::2] | (halves[1::2] << 4)).tobytes()
