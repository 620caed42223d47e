"""Write rounding with scales found at run time as rounding with a fixed scale, which every integer kernel has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten, insert_call, replace
from edgewright.pipeline.passes.rounded_rows import quantized, rounded_rows
from edgewright.pipeline.program import Program

LEAST = 1e-5  # of the largest magnitude of a row, as `choose_qparams_per_token` has it
ENCODING = (1.0, 0, -128, 127, torch.int8)


@dataclass(frozen=True)
class NormalizeRows:
    """Given: linear(s * round(x / s), dequantize(q), b). Result: linear(dequantize(quantize(x / s, 1)), dequantize(q)) * s + b.

    The same integers. A product of two dequantized values whose scales are known beforehand is what runtimes compute in
    integers; the scale of a row can be multiplied with afterwards. On x86, ONNX Runtime takes 0.35 of float32's time so
    (a perceptron of MiniLM's, one thread), and 0.77 with its own operation for 8-bit weights (MatMulNBits);
    OpenVINO takes 0.30, and 0.46 rounding activations by itself in groups of 32, as it does beside compressed weights.
    """

    name: ClassVar[str] = "normalize-rows"
    runs_after: ClassVar[tuple[str, ...]] = ("quantize-dynamic",)

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for rounded in rounded_rows(program):
            call = partial(insert_call, program, rounded.node)
            largest = call(aten.amax.default, call(aten.abs.default, rounded.source), [-1], True)
            scales = call(aten.div.Tensor, call(aten.clamp.default, largest, LEAST), 127.0)
            unit = call(aten.div.Tensor, rounded.source, scales)
            integers = call(quantized.quantize_per_tensor.default, unit, *ENCODING)
            normal = call(quantized.dequantize_per_tensor.default, integers, *ENCODING)
            for layer in list(rounded.node.users):
                _scale_back(program, layer, normal, scales)
                rewrites += 1
        return PassReport(rewrites)


def _scale_back(program: Program, layer: Node, normal: Node, scales: Node) -> None:
    assert layer.target is aten.linear.default, "rows are rounded for linear layers alone"
    _, weight, *bias = layer.args
    product = insert_call(program, layer, aten.linear.default, normal, weight)
    result = insert_call(program, layer, aten.mul.Tensor, product, scales)
    if bias and bias[0] is not None:
        result = insert_call(program, layer, aten.add.Tensor, result, bias[0])
    replace(layer, result)
