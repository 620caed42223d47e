"""Write rounding with scales found at run time as rounding with a fixed scale, which every integer kernel has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import add_constant, aten, insert_call, replace
from edgewright.pipeline.passes.rounded_rows import quantized, rounded_rows
from edgewright.pipeline.passes.stored_integers import stored_weight
from edgewright.pipeline.program import Program

SMALLEST_SCALE = torch.finfo(torch.float32).eps  # as `choose_qparams_per_token_asymmetric` has it
ENCODING = (1.0, 0, -128, 127, torch.int8)


@dataclass(frozen=True)
class NormalizeRows:
    """Given: linear(s * (q - z), w, b), with q = round(x / s) + z, s and z of each row found at run time.
    Result: linear(dequantize(quantize(x / s + z, scale=1)), w) * s + (b - s * z * sum(w)).

    The same integers. A product of two dequantized values whose scales are known beforehand is what runtimes compute in
    integers; what belongs to a row can be multiplied with and added afterwards. A perceptron of MiniLM's takes so, one
    thread: in ONNX Runtime 0.38 of float32's time (0.77 with its own operation for 8-bit weights, MatMulNBits); in
    OpenVINO 0.35 (0.43 rounding activations by itself, as it does beside compressed weights in groups of 32).
    """

    name: ClassVar[str] = "normalize-rows"
    runs_after: ClassVar[tuple[str, ...]] = ("quantize-dynamic",)

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for rounded in rounded_rows(program):
            call = partial(insert_call, program, rounded.node)
            least = call(aten.clamp.default, call(aten.amin.default, rounded.source, [-1], True), None, 0.0)
            most = call(aten.clamp.default, call(aten.amax.default, rounded.source, [-1], True), 0.0)
            steps = call(aten.div.Tensor, call(aten.sub.Tensor, most, least), 255.0)
            scales = call(aten.clamp.default, steps, SMALLEST_SCALE)
            zeros = call(aten.round.default, call(aten.sub.Tensor, -128.0, call(aten.div.Tensor, least, scales)))
            moved = call(aten.add.Tensor, call(aten.div.Tensor, rounded.source, scales), zeros)
            integers = call(quantized.quantize_per_tensor.default, moved, *ENCODING)
            normal = call(quantized.dequantize_per_tensor.default, integers, *ENCODING)
            offsets = call(aten.mul.Tensor, scales, zeros)
            for layer in list(rounded.node.users):
                _restore_rows(program, layer, normal, scales, offsets)
                rewrites += 1
        return PassReport(rewrites)


def _restore_rows(program: Program, layer: Node, normal: Node, scales: Node, offsets: Node) -> None:
    """Put the product of integers behind `layer`, with the scale of each row and its zero point's part."""
    assert layer.target is aten.linear.default, "rows are rounded for linear layers alone"
    call = partial(insert_call, program, layer)
    stored = stored_weight(program, layer.args[1])
    assert stored is not None, "as quantize-dynamic writes it"
    sums = (stored.integers.double() * stored.scales).sum(1).float()
    part = call(aten.mul.Tensor, offsets, add_constant(program, f"{stored.name}_sums", sums, layer))
    scaled = call(aten.mul.Tensor, call(aten.linear.default, normal, layer.args[1]), scales)
    if len(layer.args) > 2 and layer.args[2] is not None:
        replace(layer, call(aten.add.Tensor, scaled, call(aten.sub.Tensor, layer.args[2], part)))
    else:
        replace(layer, call(aten.sub.Tensor, scaled, part))
