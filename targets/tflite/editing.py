"""A TFLite file as objects that may be changed, and what its graphs are changed with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Editing:
    """An unpacked file (`ModelT`), with the generated module of the format's schema.

    Unpacking and packing take Python half a second for 2,000 tensors: all edits work on one such object.
    """

    schema: Any
    model: Any

    @staticmethod
    def of(content: bytes) -> Editing:
        from ai_edge_litert import schema_py_generated as schema

        return Editing(schema, schema.ModelT.InitFromPackedBuf(content, 0))

    def packed(self) -> bytes:
        """The file, without the contents that no tensor reads any more."""
        import flatbuffers

        used = {tensor.buffer for graph in self.model.subgraphs for tensor in graph.tensors}
        used |= {entry.buffer for entry in self.model.metadata or ()}
        for place, buffer in enumerate(self.model.buffers):
            if place not in used:
                buffer.data = None
        builder = flatbuffers.Builder(sum(len(buffer.data) for buffer in self.model.buffers if buffer.data is not None))
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def graphs(self) -> list[GraphEditing]:
        return [GraphEditing(self, graph) for graph in self.model.subgraphs]

    def kind(self, operator: Any) -> int:
        return int(self.model.operatorCodes[operator.opcodeIndex].builtinCode)

    def add_buffer(self, data: bytes) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def share_buffers(self) -> None:
        """Keep one copy of what several tensors hold: a table that is looked up and multiplied with."""
        first: dict[bytes, int] = {}
        for graph in self.graphs():
            for index, tensor in enumerate(graph.graph.tensors):
                if data := graph.data(index):
                    tensor.buffer = first.setdefault(hashlib.sha256(data).digest(), tensor.buffer)

    def opcode(self, name: str, version: int = 1) -> int:
        """The place of an operator's code among the model's, stated as of this version at least."""
        kind = getattr(self.schema.BuiltinOperator, name)
        for place, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == kind:
                code.version = max(code.version, version)
                return place
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


@dataclass(frozen=True)
class GraphEditing:
    """One graph of it."""

    file: Editing
    graph: Any

    @property
    def schema(self) -> Any:
        return self.file.schema

    def tensor(self, index: int) -> Any:
        return self.graph.tensors[index]

    def data(self, index: int) -> bytes:
        """The bytes of a constant; none where a tensor is computed."""
        data = self.file.model.buffers[self.tensor(index).buffer].data
        return b"" if data is None else bytes(data)

    def readers(self, index: int) -> list[Any]:
        return [operator for operator in self.graph.operators if index in list(operator.inputs)]

    def is_integer(self, operator: Any) -> bool:
        """Whether its first input and its first output are int8."""
        ends = (*operator.inputs[:1], *operator.outputs[:1])
        return all(self.tensor(end).type == self.schema.TensorType.INT8 for end in ends)

    def call(self, name: str, options: str, sources: Sequence[int], result: int, *, version: int = 1) -> Any:
        """An operator that stands nowhere yet; `options` names its kind of options ("MulOptions")."""
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self.file.opcode(name, version)
        operator.inputs, operator.outputs = list(sources), [result]
        operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
        operator.builtinOptions = getattr(self.schema, f"{options}T")()
        return operator

    def quantize(self, source: int, result: int) -> Any:
        return self.call("QUANTIZE", "QuantizeOptions", [source], result)

    def dequantize(self, source: int, result: int) -> Any:
        return self.call("DEQUANTIZE", "DequantizeOptions", [source], result, version=2)

    def add_tensor(self, name: bytes, shape: Any, dtype: int, *, buffer: int = 0) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.hasRank, tensor.type, tensor.buffer = name, shape, True, dtype, buffer
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add_constant(self, name: bytes, values: np.ndarray[Any, Any], scale: float) -> int:
        """A tensor of int8 or int32 with this scale."""
        dtype = getattr(self.schema.TensorType, values.dtype.name.upper())
        buffer = self.file.add_buffer(values.tobytes())
        index = self.add_tensor(name, np.array(values.shape, np.int32), dtype, buffer=buffer)
        encoding = self.schema.QuantizationParametersT()
        encoding.scale, encoding.zeroPoint = np.array([scale], np.float32), np.zeros(1, np.int64)
        self.tensor(index).quantization = encoding
        return index

    def add_like(self, index: int, suffix: bytes, dtype: int | None = None) -> int:
        """A tensor of the same shape and encoding, or of another dtype and without encoding."""
        like = self.tensor(index)
        added = self.add_tensor(like.name + suffix, like.shape, like.type if dtype is None else dtype)
        self.tensor(added).shapeSignature = like.shapeSignature
        if dtype is None:
            self.tensor(added).quantization = like.quantization
        return added
