"""`quantize` and `dequantize`: exact integers.

Source: coremltools 9, mil/ops/defs/iOS17/quantization_ops.py: clip(round(input / scale) + zero_point), halves
to even.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgewright.targets.coreml.reference.registry import mil
from edgewright.targets.coreml.reference.values import TORCH_DTYPES


def along_axis(parameter: Tensor, rank: int, axis: int | None) -> Tensor:
    """A scalar as it is; a vector along `axis`, ready to broadcast."""
    if parameter.dim() == 0 or axis is None:
        return parameter
    shape = [1] * rank
    shape[axis] = -1
    return parameter.reshape(shape)


@mil("quantize")
def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    axis: int | None = None,
    zero_point: Tensor | None = None,
) -> Tensor:
    rounded = torch.round(input / along_axis(scale, input.dim(), axis))
    if zero_point is not None:
        rounded = rounded + along_axis(zero_point, input.dim(), axis)
    limits = torch.iinfo(TORCH_DTYPES[output_dtype])
    return torch.clamp(rounded, limits.min, limits.max)


@mil("dequantize")
def dequantize(input: Tensor, scale: Tensor, axis: int | None = None, zero_point: Tensor | None = None) -> Tensor:
    whole = input if zero_point is None else input - along_axis(zero_point, input.dim(), axis)
    return whole * along_axis(scale, input.dim(), axis)
