"""Average integers as the graph does."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgewright.targets.tflite.editing import Editing

VALID = 1
DEPTHWISE_VERSION = 3  # the first with int8
BOUNDARY_VERSION = 2  # likewise, of DEQUANTIZE


def average_otherwise(editing: Editing, operator: Any) -> list[Any]:
    """Given: y = AVERAGE_POOL_2D(x) in int8, whose kernel rounds halves away from zero.
    Result: y = DEPTHWISE_CONV_2D(x, ones of the scale 1 / count) without padding, which rounds halves to even; with
    padding, which is not counted, so that windows differ in their count, y = QUANTIZE(AVERAGE_POOL_2D(DEQUANTIZE(x))).

    A window of 2 x 2 has a half in a quarter of the places. Integers behind a ReLU are mostly below zero, so that half
    of these end one step low and none high: a mean keeps that and a linear layer sums it up. Windows of an odd count
    have no halves and stay. Measured with ai-edge-litert 2.3.0, one thread, [1, 56, 56, 64], 2 x 2: 0.19 ms; as
    DEPTHWISE_CONV_2D 0.025, no integer off; 3 x 3 with padding: 0.85 ms, in float 0.08.
    """
    schema, options = editing.schema, operator.builtinOptions
    source, result = operator.inputs[0], operator.outputs[0]
    count = options.filterHeight * options.filterWidth
    is_padded = options.padding != VALID
    if options.fusedActivationFunction != schema.ActivationFunctionType.NONE or (count % 2 and not is_padded):
        return []
    if is_padded:
        return _in_float(editing, operator)
    tensor = editing.graph.tensors[source]
    ones = np.ones((1, options.filterHeight, options.filterWidth, tensor.shape[3]), np.int8)
    weight = editing.constant(b"ones", ones, 1.0 / count)
    bias = editing.constant(b"zeros", np.zeros(tensor.shape[3], np.int32), tensor.quantization.scale[0] / count)
    product = editing.call("DEPTHWISE_CONV_2D", DEPTHWISE_VERSION, [source, weight, bias], result)
    product.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
    product.builtinOptions = schema.DepthwiseConv2DOptionsT()
    product.builtinOptions.padding, product.builtinOptions.depthMultiplier = VALID, 1
    product.builtinOptions.strideH, product.builtinOptions.strideW = options.strideH, options.strideW
    product.builtinOptions.dilationHFactor = product.builtinOptions.dilationWFactor = 1
    return [product]


def _in_float(editing: Editing, operator: Any) -> list[Any]:
    source, result = operator.inputs[0], operator.outputs[0]
    floats = editing.schema.TensorType.FLOAT32
    operator.inputs, operator.outputs = (
        [editing.like(source, b".float", floats)],
        [editing.like(result, b".float", floats)],
    )
    before = editing.call("DEQUANTIZE", BOUNDARY_VERSION, [source], operator.inputs[0])
    after = editing.call("QUANTIZE", 1, [operator.outputs[0]], result)
    return [before, operator, after]
