"""Put the biases of integer layers on the grid on which runtimes store them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import add_constant, aten
from edgewright.pipeline.program import Program

quantized = torch.ops.quantized_decomposed
LAYERS = frozenset({aten.conv1d.default, aten.conv2d.default, aten.linear.default})
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class RoundBiases:
    """Given: conv(dequantize(x, s_x), dequantize(w, s_w), b).
    Result: the same with b rounded to multiples of s_x * s_w.

    Integer runtimes keep the bias as int32 with exactly that scale. With the rounding in the graph, they compute the
    graph's numbers, not numbers near them.
    Source: Jacob 2018, arXiv:1712.05877, section 2.4.
    """

    name: ClassVar[str] = "round-biases"
    runs_after: ClassVar[tuple[str, ...]] = ("quantize-static", "train-quantized")

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in program.graph.nodes:
            if node.target not in LAYERS or len(node.args) < 3 or not isinstance(node.args[2], Node):
                continue
            scale = _bias_scale(program, node)
            bias = node.args[2]
            if scale is None or bias.op != "get_attr":
                continue
            value = program.tensor(bias).detach()
            steps = torch.clamp(torch.round(value.double() / scale), -LARGEST, LARGEST)
            rounded = (steps * scale).to(torch.float32)
            if torch.equal(rounded, value):
                continue
            node.update_arg(2, add_constant(program, str(bias.target), rounded, node))
            rewrites += 1
        return PassReport(rewrites)


def _bias_scale(program: Program, node: Node) -> Tensor | None:
    """s_x * s_w, float64, one an output channel or one for all; None where the layer is not an integer one."""
    data, weight = node.args[0], node.args[1]
    if not isinstance(data, Node) or not isinstance(weight, Node):
        return None
    if data.target is not quantized.dequantize_per_tensor.default:
        return None
    step = float(data.args[1])  # type: ignore[arg-type]
    if weight.target is quantized.dequantize_per_tensor.default:
        return torch.tensor(float(weight.args[1]) * step, dtype=torch.float64)  # type: ignore[arg-type]
    if weight.target is not quantized.dequantize_per_channel.default:
        return None
    scales = weight.args[1]
    assert isinstance(scales, Node), "per-channel scales are a constant"
    return program.tensor(scales).double().mul(step)
