"""Rescale integers through products, whose kernels round as the graph does."""

from __future__ import annotations

from typing import Any

import numpy as np

VERSION = 2  # of MUL, MAXIMUM and MINIMUM: the first with int8


def rescale_by_products(content: bytes) -> bytes:
    """Given: y = LEAKY_RELU(x) or y = QUANTIZE(x), both int8.
    Result: y = MAXIMUM(MUL(x, 1), MUL(x, slope)) (MINIMUM for slopes above 1), or y = MUL(x, 1).

    XNNPACK's kernels of the first two multiply with a number of 8 fractional bits: 1.776 becomes 455/256, and of evenly
    spread integers 11 % end one step higher than the graph's, never lower; LiteRT's own LEAKY_RELU has 5 % one step
    lower. Behind it a mean keeps such an offset and a linear layer sums it up. The kernels of MUL round the float
    product once. A factor is the constant 1 with itself as the scale. Measured with ai-edge-litert 2.3.0, one thread,
    [1, 56, 56, 64]: 0.08 ms for 0.01; PRELU is exact, too, and takes 1.4.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    if not _has_rescaling(schema, schema.Model.GetRootAs(content, 0)):
        return content
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        operators: list[Any] = []
        for operator in graph.operators:
            operators += _Spelling(schema, model, graph).of(operator) or [operator]
        graph.operators = operators
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _has_rescaling(schema: Any, model: Any) -> bool:
    """Read in place: most files have none, and unpacking a file takes its size in memory again."""
    kinds = schema.BuiltinOperator
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for place in range(graph.OperatorsLength()):
            operator = graph.Operators(place)
            kind = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
            rescales = kind in (kinds.LEAKY_RELU, kinds.QUANTIZE)
            if rescales and graph.Tensors(operator.Inputs(0)).Type() == schema.TensorType.INT8:
                return True
    return False


class _Spelling:
    """The operators that take the place of one, in its graph."""

    def __init__(self, schema: Any, model: Any, graph: Any) -> None:
        self.schema, self.model, self.graph = schema, model, graph

    def of(self, operator: Any) -> list[Any]:
        kinds, int8 = self.schema.BuiltinOperator, self.schema.TensorType.INT8
        kind = self.model.operatorCodes[operator.opcodeIndex].builtinCode
        if kind not in (kinds.LEAKY_RELU, kinds.QUANTIZE):
            return []
        source, result = operator.inputs[0], operator.outputs[0]
        if self.graph.tensors[source].type != int8 or self.graph.tensors[result].type != int8:
            return []
        if kind == kinds.QUANTIZE:
            return [self._product(source, 1.0, result)]
        slope = float(operator.builtinOptions.alpha)
        if slope == 0.0:
            return []
        above, below = self._like(result, b".above"), self._like(result, b".below")
        choice = self._call(kinds.MAXIMUM if slope <= 1.0 else kinds.MINIMUM, [above, below], result)
        choice.builtinOptionsType = self.schema.BuiltinOptions.MaximumMinimumOptions
        choice.builtinOptions = self.schema.MaximumMinimumOptionsT()
        return [self._product(source, 1.0, above), self._product(source, slope, below), choice]

    def _product(self, source: int, factor: float, result: int) -> Any:
        operator = self._call(self.schema.BuiltinOperator.MUL, [source, self._constant(factor)], result)
        operator.builtinOptionsType = self.schema.BuiltinOptions.MulOptions
        operator.builtinOptions = self.schema.MulOptionsT()
        return operator

    def _constant(self, factor: float) -> int:
        tensor, buffer, encoding = self.schema.TensorT(), self.schema.BufferT(), self.schema.QuantizationParametersT()
        buffer.data = np.array([1 if factor > 0 else -1], np.int8).view(np.uint8)
        encoding.scale, encoding.zeroPoint = np.array([abs(factor)], np.float32), np.zeros(1, np.int64)
        tensor.shape, tensor.hasRank, tensor.type = np.zeros(0, np.int32), True, self.schema.TensorType.INT8
        tensor.name, tensor.quantization, tensor.buffer = b"factor", encoding, len(self.model.buffers)
        self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _like(self, index: int, suffix: bytes) -> int:
        like, tensor = self.graph.tensors[index], self.schema.TensorT()
        tensor.shape, tensor.shapeSignature, tensor.hasRank = like.shape, like.shapeSignature, True
        tensor.type, tensor.quantization = like.type, like.quantization
        tensor.name, tensor.buffer = like.name + suffix, 0
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _call(self, kind: int, sources: list[int], result: int) -> Any:
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(kind)
        operator.inputs, operator.outputs = sources, [result]
        return operator

    def _code(self, kind: int) -> int:
        for place, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == kind:
                code.version = max(code.version, VERSION)
                return place
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), VERSION
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1
