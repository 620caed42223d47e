"""Store weights in 8 bits, and round what linear layers (and convolutions) read to 8 bits as it comes."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import aten, insert_call, value_of
from edgewright.pipeline.passes.layer_weights import layer_weights
from edgewright.pipeline.passes.quantize_weights import QuantizeWeights
from edgewright.pipeline.passes.rounded_rows import CHOOSE, RANGE, quantized
from edgewright.pipeline.program import Program

torchao = torch.ops.torchao  # registered with `quantize-weights`
ROW, PIXEL, IMAGE = range(3)  # what of a layer's input shares a scale


@dataclass(frozen=True)
class QuantizeDynamic:
    """Given: linear(x, w). Result: linear(s * (q - z), dequantize(w_int8)), with q = round(x / s) + z in -128..127.

    Activations: a scale s = (max(x, 0) - min(x, 0)) / 255 and a zero point z = round(-128 - min(x, 0) / s) for each row
    (the last axis of x), found at run time: nothing is calibrated, and new data can leave no range. XNNPACK's kernels
    round so; on MiniLM it errs 3.7 dB less than with max|x| / 127. A row of zeros stays zeros. Layers that read the
    same x share its rounding.

    With `convolutions`, what those over one or two axes read is rounded, too: a scale for each image, or for each pixel
    (all its channels) where kernel and stride are 1, which is a linear layer of pixels. They pad with 0, whose integer
    is z. Kernels of single channels (depthwise) stay in float: no runtime has fast ones that round.

    Weights: as `quantize-weights` stores them in 8 bits. Embeddings and what is no such layer get such weights, too;
    their arithmetic stays in float, and the report names the convolutions.

    Args:
        convolutions: whether what these read is rounded, too: XNNPACK, under TFLite, has kernels for it.
        modules, rounding, damping, act_order, weigh_rows, minimum_elements: of `quantize-weights`.
    Source: Jacob 2018, arXiv:1712.05877, section 2.1; a scale for each row: Yao 2022, arXiv:2206.01861, section 4.1.
    """

    name: ClassVar[str] = "quantize-dynamic"
    runs_after: ClassVar[tuple[str, ...]] = QuantizeWeights.runs_after
    modules: str = "*"
    rounding: str = "nearest"
    damping: float = 0.1
    act_order: bool = True
    weigh_rows: bool = True
    minimum_elements: int = 256
    convolutions: bool = False

    def run(self, program: Program, context: Context) -> PassReport:
        before = list(layer_weights(program))
        stored = QuantizeWeights(
            modules=self.modules,
            rounding=self.rounding,
            damping=self.damping,
            act_order=self.act_order,
            weigh_rows=self.weigh_rows,
            minimum_elements=self.minimum_elements,
        ).run(program, context)
        in_float = {found.layer for found in layer_weights(program)}
        skips = list(stored.skips)
        rounded: dict[tuple[Node, int], Node] = {}
        for found in before:
            layer, source = found.layer, found.layer.args[0]
            if layer in in_float or layer.target is aten.embedding.default:
                continue
            assert isinstance(source, Node), "a tensor by schema"
            if reason := _stays(layer, source, self.convolutions):
                stays = f"its weights got 8 bits, its arithmetic stays in float: {reason}"
                skips.append(Skip(str(found.constant.target), stays))
                continue
            key = source, _shares_a_scale(layer, source)
            if key not in rounded:
                rounded[key] = _round(*key, program, layer)
            layer.update_arg(0, rounded[key])
        return PassReport(stored.rewrites, tuple(skips), stored.warnings)


def _stays(layer: Node, source: Node, convolutions: bool) -> str:
    """Why what a layer reads is not rounded; "" where it is."""
    linear = layer.target is aten.linear.default
    if not linear and not convolutions:
        return "rows are rounded for linear layers"
    if not linear and layer.target not in (aten.conv1d.default, aten.conv2d.default):
        return "no kernels round for transposed convolutions, nor for those over three axes"
    if not linear and value_of(layer.args[1]).shape[1] == 1:  # type: ignore[arg-type]
        return "no fast kernels round for convolutions of single channels (depthwise)"
    if not linear and value_of(source).dim() != value_of(layer.args[1]).dim():  # type: ignore[arg-type]
        return "it reads no batch"
    if value_of(source).dtype != torch.float32:
        return f"float32 alone is rounded, not {value_of(source).dtype}"
    return ""


def _shares_a_scale(layer: Node, source: Node) -> int:
    if layer.target is aten.linear.default:
        return ROW
    _, channels, *kernel = value_of(layer.args[1]).shape  # type: ignore[arg-type]
    strides = layer.args[3] if len(layer.args) > 3 else 1
    steps = strides if isinstance(strides, list | tuple) else [strides]
    return PIXEL if {*kernel, *steps} == {1} and channels == value_of(source).shape[1] else IMAGE


def _round(source: Node, shares: int, program: Program, layer: Node) -> Node:
    """The value of `source`, rounded to 8 bits before `layer` with a scale for each row, pixel or image."""
    call = partial(insert_call, program, layer)
    axes = value_of(source).dim()
    if shares == IMAGE:
        chosen = call(CHOOSE, call(aten.flatten.using_ints, source, 1), torch.int8)
    elif shares == PIXEL:
        chosen = call(CHOOSE, call(aten.permute.default, source, [0, *range(2, axes), 1]), torch.int8)
    else:
        chosen = call(CHOOSE, source, torch.int8)
    parts = []
    for place in range(2):
        with program.graph.inserting_before(layer):
            parts.append(program.graph.call_function(operator.getitem, (chosen, place)))
        parts[-1].meta = {**chosen.meta, "val": chosen.meta["val"][place]}
    if shares == IMAGE:
        integers = call(quantized.quantize_per_channel.default, source, *parts, 0, *RANGE)
        return call(quantized.dequantize_per_channel.default, integers, *parts, 0, *RANGE)
    if shares == PIXEL:
        settings = ([1, value_of(source).shape[1], *[1] * (axes - 2)], *parts, torch.int8, *RANGE[:2])
        return call(
            torchao.dequantize_affine.default, call(torchao.quantize_affine.default, source, *settings), *settings
        )
    integers = call(quantized.quantize_per_token.default, source, *parts, *RANGE)
    return call(quantized.dequantize_per_token.default, integers, *parts, *RANGE, torch.float32)
