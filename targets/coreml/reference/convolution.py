"""Convolutions.

Source: coremltools 9, mil/ops/defs/iOS15/conv.py; iOS17/conv.py lets weight and bias have another dtype and
the transposed weight vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from edgewright.targets.coreml.reference.activation import along_channels
from edgewright.targets.coreml.reference.registry import limit, mil
from edgewright.targets.coreml.reference.values import UnclearError
from edgewright.targets.coreml.reference.windows import pad_spatial, pads_of

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _spans(weight: Tensor, dilations: list[int]) -> list[int]:
    return [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]


@mil("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    strides: list[int],
    pad_type: str,
    pad: list[int],
    dilations: list[int],
    groups: int,
    bias: Tensor | None = None,
) -> Tensor:
    pads = pads_of(pad_type, pad, x.shape[2:], _spans(weight, dilations), strides)
    convolve = CONV[len(strides)]
    if all(before == after for before, after in pads):
        return convolve(x, weight, bias, strides, [before for before, _ in pads], dilations, groups)
    return convolve(pad_spatial(x, pads, 0.0), weight, bias, strides, 0, dilations, groups)


@mil("conv_quantized")
def conv_quantized(
    x: Tensor,
    weight: Tensor,
    quantization_type: str,
    nbits: int,
    quant_scale: Tensor,
    quant_bias: Tensor,
    strides: list[int],
    pad_type: str,
    pad: list[int],
    dilations: list[int],
    groups: int,
) -> Tensor:
    """W_float = W_quantized * scale + bias, with one scale and bias, or one for each output channel."""
    shape = (-1, *[1] * (weight.dim() - 1))
    dense = weight * quant_scale.reshape(shape) + quant_bias.reshape(shape)
    return conv(x, dense, strides, pad_type, pad, dilations, groups)


@mil("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    pad: list[int],
    pad_type: str,
    strides: list[int],
    dilations: list[int],
    groups: int,
    bias: Tensor | None = None,
    output_shape: list[int] | None = None,
) -> Tensor:
    """The gradient of `conv` by its input: the whole of it, from which the padding is cut off.

    `output_shape` names one of the sizes that `conv` maps to the size of `x`; where it reaches further than
    the whole, there is the bias alone.
    """
    whole = CONV_TRANSPOSE[len(strides)](x, weight, None, strides, 0, 0, groups, dilations)
    sizes = _transposed_sizes(x.shape[2:], whole.shape[2:], pad, pad_type, strides)
    sizes = sizes if output_shape is None else output_shape[2:]
    spans = _spans(weight, dilations)
    pads = pads_of(pad_type, pad, sizes, spans, strides)
    crops = []
    for axis, (size, full, (before, after)) in enumerate(zip(sizes, whole.shape[2:], pads, strict=True)):
        if (size + before + after - spans[axis]) // strides[axis] + 1 != x.shape[2 + axis]:
            raise UnclearError(f"an output of {size} with padding of {before} and {after}")
        crops.append((-before, before + size - full))
    result = pad_spatial(whole, crops, 0.0)
    return result if bias is None else result + along_channels(bias, result.dim())


def _transposed_sizes(
    sizes: Sequence[int], whole: Sequence[int], pad: list[int], pad_type: str, strides: list[int]
) -> list[int]:
    """The spatial sizes of the output where none are stated."""
    if pad_type == "same":
        return [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if pad_type == "valid":
        return list(whole)
    return [size - pad[2 * axis] - pad[2 * axis + 1] for axis, size in enumerate(whole)]


@limit("conv_quantized")
def plain_linear_quantization(op: Any) -> str | None:
    if op.quantization_type.val != "linear" or op.nbits.val != 8:
        return "only quantization_type 'linear' with nbits 8 has a stated layout"
    if op.bias is not None:
        return "a uint8 bias has no stated meaning"
    channels = {1, op.weight.shape[0]}
    if {op.quant_scale.val.size, op.quant_bias.val.size} <= channels:
        return None
    return "quant_scale and quant_bias are neither single nor one for each output channel"


@limit("conv_transpose")
def known_transposed_padding(op: Any) -> str | None:
    return None if op.pad_type.val in ("valid", "same", "custom") else f"pad_type {op.pad_type.val!r}"
