"""New operators, tensors and constants for a graph of a TFLite file that is edited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Editing:
    """A graph of an unpacked model (`ModelT`), with the generated module of the format's schema."""

    schema: Any
    model: Any
    graph: Any

    def kind(self, operator: Any) -> int:
        return int(self.model.operatorCodes[operator.opcodeIndex].builtinCode)

    def is_integer(self, operator: Any) -> bool:
        """Whether its first input and its first output are int8."""
        ends = (*operator.inputs[:1], *operator.outputs[:1])
        return all(self.graph.tensors[end].type == self.schema.TensorType.INT8 for end in ends)

    def call(self, name: str, version: int, sources: list[int], result: int) -> Any:
        """An operator of at least this version; its options are the caller's."""
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(getattr(self.schema.BuiltinOperator, name), version)
        operator.inputs, operator.outputs = sources, [result]
        return operator

    def constant(self, name: bytes, values: np.ndarray[Any, Any], scale: float) -> int:
        """A tensor of int8 or int32 with this scale."""
        tensor, buffer, encoding = self.schema.TensorT(), self.schema.BufferT(), self.schema.QuantizationParametersT()
        buffer.data = values.reshape(-1).view(np.uint8)
        encoding.scale, encoding.zeroPoint = np.array([scale], np.float32), np.zeros(1, np.int64)
        tensor.shape, tensor.hasRank = np.array(values.shape, np.int32), True
        tensor.type = getattr(self.schema.TensorType, values.dtype.name.upper())
        tensor.name, tensor.quantization, tensor.buffer = name, encoding, len(self.model.buffers)
        self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def like(self, index: int, suffix: bytes, dtype: int | None = None) -> int:
        """A tensor of the same shape and encoding, or of another dtype and no encoding."""
        like, tensor = self.graph.tensors[index], self.schema.TensorT()
        tensor.shape, tensor.shapeSignature, tensor.hasRank = like.shape, like.shapeSignature, True
        tensor.type, tensor.quantization = (like.type, like.quantization) if dtype is None else (dtype, None)
        tensor.name, tensor.buffer = like.name + suffix, 0
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _code(self, kind: int, version: int) -> int:
        for place, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == kind:
                code.version = max(code.version, version)
                return place
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1
