"""Resizing on a grid.

Source: coremltools 9, mil/ops/defs/iOS15/image_resizing.py (the notes of resize_bilinear state the grids),
iOS16 and iOS17/image_resizing.py; the expected values of mil/ops/tests/iOS15 and
iOS17/test_image_resizing.py; the message SamplingMode in mlmodel/format/NeuralNetwork.proto of coremltools'
repository.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgewright.targets.coreml.reference.registry import limit, mil
from edgewright.targets.coreml.reference.values import UnclearError


def grid(size: int, count: int, mode: str) -> Tensor:
    """`count` sampling points, float64, in the interval from 0 to size - 1."""
    steps = torch.arange(count, dtype=torch.float64)
    if mode == "ALIGN_CORNERS" and count == 1:
        return torch.tensor([(size - 1) / 2], dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        points = steps * ((size - 1) / max(1, count - 1))
    elif mode == "DEFAULT":
        points = steps * size / count
    elif mode == "OFFSET_CORNERS":
        points = (steps + 0.5) * max(1, size - 1) / count
    elif mode == "UNALIGN_CORNERS":
        points = (steps + 0.5) * size / count - 0.5
    else:
        raise UnclearError(f"sampling mode {mode!r}")
    return points.clamp(0, size - 1)


def interpolate(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """Linearly between the two elements around each point."""
    low = points.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    weight = (points - low).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1 - axis % x.dim()))
    first, second = x.index_select(axis, low), x.index_select(axis, high)
    return first + (second - first) * weight


def nearest_below(x: Tensor, axis: int, count: int) -> Tensor:
    """Element floor(i * size / count), as PyTorch's "nearest" and TensorFlow's without half pixels."""
    return x.index_select(axis, torch.arange(count) * x.shape[axis] // count)


def nearest_centre(x: Tensor, axis: int, count: int) -> Tensor:
    """Element floor((i + 1/2) * size / count), as TensorFlow's with half pixels.

    TensorFlow's converter maps half pixels to `resize_nearest_neighbor` and to `resize` with sampling mode
    DEFAULT; Apple's expected values for two elements made three, [a, b, b], agree and rule `nearest_below`
    out.
    """
    return x.index_select(axis, (2 * torch.arange(count) + 1) * x.shape[axis] // (2 * count))


def _scaled(size: int, factor: Tensor) -> int:
    return int(torch.floor(factor * size).item())


@mil("upsample_nearest_neighbor")
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Tensor, scale_factor_width: Tensor) -> Tensor:
    """By the ratio of the sizes, not by the factor that gave them."""
    x = nearest_below(x, -2, _scaled(x.shape[-2], scale_factor_height))
    return nearest_below(x, -1, _scaled(x.shape[-1], scale_factor_width))


@mil("resize_nearest_neighbor")
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    return nearest_centre(nearest_centre(x, -2, target_size_height), -1, target_size_width)


@mil("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor,
    scale_factor_width: Tensor,
    align_corners: bool,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """By the ratio of the sizes, not by the factor that gave them; `half_pixel_centers` is not
    `align_corners` unless it is given."""
    if half_pixel_centers is None:
        half_pixel_centers = not align_corners
    unaligned = "UNALIGN_CORNERS" if half_pixel_centers else "DEFAULT"
    mode = "STRICT_ALIGN_CORNERS" if align_corners else unaligned
    height, width = _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)
    return resize_bilinear(x, height, width, mode)


@mil("resize_bilinear")
def resize_bilinear(x: Tensor, target_size_height: int, target_size_width: int, sampling_mode: str) -> Tensor:
    x = interpolate(x, -2, grid(x.shape[-2], target_size_height, sampling_mode))
    return interpolate(x, -1, grid(x.shape[-1], target_size_width, sampling_mode))


@mil("resize")
def resize(x: Tensor, shape: list[int], resized_dims: int, interpolation_mode: str, sampling_mode: str) -> Tensor:
    """The last `resized_dims` dimensions take the last numbers of `shape`, where 0 keeps a dimension."""
    for back in range(1, resized_dims + 1):
        count = shape[-back] or x.shape[-back]
        if interpolation_mode == "NEAREST_NEIGHBOR":
            x = nearest_centre(x, -back, count)
        else:
            x = interpolate(x, -back, grid(x.shape[-back], count, sampling_mode))
    return x


@limit("resize")
def stated_interpolation(op: Any) -> str | None:
    from coremltools.converters.mil.mil import types

    if op.interpolation_mode.val == "NEAREST_NEIGHBOR" and op.sampling_mode.val != "DEFAULT":
        return f"which element is nearest is not stated for sampling mode {op.sampling_mode.val!r}"
    if op.interpolation_mode.val == "LINEAR" and types.is_int(op.x.dtype):
        return "interpolated integers have no stated rounding"
    return None


@limit("upsample_bilinear")
def one_kind_of_corner(op: Any) -> str | None:
    half_pixel_centers = getattr(op, "half_pixel_centers", None)
    if op.align_corners.val and half_pixel_centers is not None and half_pixel_centers.val:
        return "align_corners and half_pixel_centers exclude each other"
    return None
