"""Average integers as the graph does."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgewright.targets.tflite.editing import GraphEditing

VALID = 1
VERSION = 3  # of DEPTHWISE_CONV_2D: the first with int8


def average_otherwise(graph: GraphEditing, operator: Any) -> list[Any]:
    """Given: y = AVERAGE_POOL_2D(x) in int8, whose kernel rounds halves away from zero.
    Result: y = DEPTHWISE_CONV_2D(x, ones of the scale 1 / count) without padding, which rounds halves to even; with
    padding, which is not counted, so that windows differ in their count, y = QUANTIZE(AVERAGE_POOL_2D(DEQUANTIZE(x))).

    A window of 2 x 2 has a half in a quarter of the places. Integers behind a ReLU are mostly below zero, so that half
    of these end one step low and none high: a mean keeps that and a linear layer sums it up. Windows of an odd count
    have no halves and stay. Measured with ai-edge-litert 2.3.0, one thread, [1, 56, 56, 64], 2 x 2: 0.19 ms; as
    DEPTHWISE_CONV_2D 0.025, no integer off; 3 x 3 with padding: 0.85 ms, in float 0.08.
    """
    options, (source, *_), (result, *_) = operator.builtinOptions, operator.inputs, operator.outputs
    count = options.filterHeight * options.filterWidth
    is_padded = options.padding != VALID
    is_fused = options.fusedActivationFunction != graph.schema.ActivationFunctionType.NONE
    if is_fused or (count % 2 and not is_padded):
        return []
    if is_padded:
        return _in_float(graph, operator)
    tensor = graph.tensor(source)
    ones = np.ones((1, options.filterHeight, options.filterWidth, tensor.shape[3]), np.int8)
    weight = graph.add_constant(b"ones", ones, 1.0 / count)
    bias = graph.add_constant(b"zeros", np.zeros(tensor.shape[3], np.int32), tensor.quantization.scale[0] / count)
    product = graph.call("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", [source, weight, bias], result, version=VERSION)
    product.builtinOptions.padding, product.builtinOptions.depthMultiplier = VALID, 1
    product.builtinOptions.strideH, product.builtinOptions.strideW = options.strideH, options.strideW
    product.builtinOptions.dilationHFactor = product.builtinOptions.dilationWFactor = 1
    return [product]


def _in_float(graph: GraphEditing, operator: Any) -> list[Any]:
    source, result = operator.inputs[0], operator.outputs[0]
    read, given = (graph.add_like(end, b".float", graph.schema.TensorType.FLOAT32) for end in (source, result))
    operator.inputs, operator.outputs = [read], [given]
    return [graph.dequantize(source, read), operator, graph.quantize(given, result)]
