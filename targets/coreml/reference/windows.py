"""The arithmetic of sliding windows that convolutions and pools share.

Source: coremltools 9, mil/ops/defs/_utils.py: aggregated_pad and spatial_dimensions_out_shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

Pads = list[tuple[int, int]]


def pads_of(
    pad_type: str,
    pad: Sequence[int],
    sizes: Sequence[int],
    spans: Sequence[int],
    strides: Sequence[int],
) -> Pads:
    """Elements to add before and after each spatial dimension.

    "same" makes ceil(size / stride) windows and puts an odd element after, "same_lower" before: TensorFlow's
    SAME and ONNX's SAME_LOWER, and SamePadding in mlmodel/format/NeuralNetwork.proto. (The docstring of
    `conv` also gives a formula that puts it before for "same"; it contradicts what it says of "same_lower".)

    Args:
        sizes: the spatial dimensions of the input.
        spans: how far a window reaches: (kernel - 1) * dilation + 1.
    """
    if pad_type == "custom":
        return [(pad[2 * i], pad[2 * i + 1]) for i in range(len(sizes))]
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    pads = []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + span - size)
        less, more = total // 2, total - total // 2
        pads.append((more, less) if pad_type == "same_lower" else (less, more))
    return pads


def pad_spatial(x: Tensor, pads: Pads, value: float) -> Tensor:
    """Pad the last dimensions; a negative amount crops."""
    if not any(amount for pair in pads for amount in pair):
        return x
    return F.pad(x, [amount for pair in reversed(pads) for amount in pair], value=value)
