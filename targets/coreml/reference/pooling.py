"""Pools.

Source: coremltools 9, mil/ops/defs/iOS15/pool.py; ceil_mode is PyTorch's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewright.targets.coreml.reference.registry import mil
from edgewright.targets.coreml.reference.values import UnclearError
from edgewright.targets.coreml.reference.windows import Pads, pad_spatial, pads_of

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _pads(
    x: Tensor, kernel: list[int], strides: list[int], pad_type: str, pad: list[int], ceil_mode: bool
) -> tuple[Pads, Pads]:
    """The stated padding, and what `ceil_mode` reaches over its end."""
    pads = pads_of(pad_type.lower(), pad, x.shape[2:], kernel, strides)
    over = []
    for size, span, stride, (before, after) in zip(x.shape[2:], kernel, strides, pads, strict=True):
        if max(before, after) >= span:
            raise UnclearError("a window lies in the padding alone")
        room = size + before + after - span
        count = -(-room // stride) + 1 if ceil_mode else room // stride + 1
        if ceil_mode and (count - 1) * stride >= size + before:
            if before + after == 0:
                raise UnclearError("a window lies beyond the input")
            count -= 1
        over.append((0, max(0, (count - 1) * stride - room)))
    return pads, over


@mil("max_pool")
def max_pool(
    x: Tensor, kernel_sizes: list[int], strides: list[int], pad_type: str, pad: list[int], ceil_mode: bool
) -> Tensor:
    for pads in _pads(x, kernel_sizes, strides, pad_type, pad, ceil_mode):
        x = pad_spatial(x, pads, float("-inf"))
    result: Tensor = MAX[len(strides)](x, kernel_sizes, strides)
    return result


@mil("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: list[int],
    strides: list[int],
    pad_type: str,
    pad: list[int],
    ceil_mode: bool,
    exclude_padding_from_average: bool,
) -> Tensor:
    """The sum of a window over its count of elements: of the input, or of the padded input, never beyond."""
    average = AVG[len(strides)]
    pads, over = _pads(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    counted = torch.ones(1, 1, *x.shape[2:])
    counted = pad_spatial(counted, pads, 0.0 if exclude_padding_from_average else 1.0)
    sums, counts = (pad_spatial(pad_spatial(x, pads, 0.0), over, 0.0), pad_spatial(counted, over, 0.0))
    return average(sums, kernel_sizes, strides) / average(counts, kernel_sizes, strides)


@mil("l2_pool")
def l2_pool(
    x: Tensor, kernel_sizes: list[int], strides: list[int], pad_type: str, pad: list[int], ceil_mode: bool
) -> Tensor:
    """The square root of the sum of squares of a window."""
    for pads in _pads(x, kernel_sizes, strides, pad_type, pad, ceil_mode):
        x = pad_spatial(x, pads, 0.0)
    elements = torch.tensor(kernel_sizes).prod()
    return torch.sqrt(AVG[len(strides)](x.square(), kernel_sizes, strides) * elements)
