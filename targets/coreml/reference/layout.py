"""Operations that move values without computing: shapes, orders, blocks.

Source: coremltools 9, mil/ops/defs/iOS15/tensor_transformation.py; iOS16 adds reshape_like and
pixel_unshuffle; iOS17 changes what a 0 in `reshape` means.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewright.targets.coreml.reference.registry import mil
from edgewright.targets.coreml.reference.values import UnclearError


@mil("reshape")
def reshape(x: Tensor, shape: list[int], opset: int) -> Tensor:
    """A 0 keeps the dimension of `x` at its place, counted from the left up to iOS 16 (where the ranks must
    agree) and from the right since iOS 17 (where it is 1 beyond the rank of `x`)."""
    if 0 not in shape:
        return x.reshape(shape)
    if opset < 17 and len(shape) != x.dim():
        raise UnclearError(f"a 0 in the shape {shape} of an input of rank {x.dim()}")
    kept = [1] * max(0, len(shape) - x.dim()) + list(x.shape[max(0, x.dim() - len(shape)) :])
    return x.reshape([keep if size == 0 else size for size, keep in zip(shape, kept, strict=True)])


@mil("reshape_like")
def reshape_like(
    x: Tensor,
    ref_tensors: tuple[Tensor, ...],
    begins: tuple[int, ...],
    ends: tuple[int, ...],
    end_masks: tuple[bool, ...],
) -> Tensor:
    shape: list[int] = []
    for reference, begin, end, to_the_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += reference.shape[begin:] if to_the_end else reference.shape[begin:end]
    return x.reshape(shape)


@mil("expand_dims")
def expand_dims(x: Tensor, axes: list[int]) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@mil("squeeze")
def squeeze(x: Tensor, axes: list[int] | None = None) -> Tensor:
    """Dimensions of more than one element stay, as in PyTorch."""
    return x.squeeze() if axes is None else x.squeeze(axes)


@mil("transpose")
def transpose(x: Tensor, perm: list[int]) -> Tensor:
    return x.permute(perm)


@mil("flatten2d")
def flatten2d(x: Tensor, axis: int) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@mil("concat")
def concat(values: tuple[Tensor, ...], axis: int, interleave: bool) -> Tensor:
    """Scalars make a vector; interleaved, the elements take turns along `axis`."""
    values = tuple(value.reshape(1) if value.dim() == 0 else value for value in values)
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].dim()
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@mil("stack")
def stack(values: tuple[Tensor, ...], axis: int) -> Tensor:
    return torch.stack(values, axis)


@mil("reverse")
def reverse(x: Tensor, axes: list[int] | None = None) -> Tensor:
    return x.flip(list(range(x.dim())) if axes is None else axes)


@mil("reverse_sequence")
def reverse_sequence(x: Tensor, lengths: list[int], seq_axis: int, batch_axis: int) -> Tensor:
    """The first lengths[i] elements along `seq_axis` in reverse order, for entry i along `batch_axis`."""
    if seq_axis % x.dim() == batch_axis % x.dim():
        raise UnclearError("seq_axis and batch_axis are the same")
    turned = []
    for index, length in enumerate(lengths):
        entry = x.narrow(batch_axis, index, 1)
        head, tail = entry.tensor_split([length], seq_axis)
        turned.append(torch.cat([head.flip(seq_axis), tail], seq_axis))
    return torch.cat(turned, batch_axis)


@mil("pixel_shuffle")
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Channel (c, i, j) goes to pixel (i, j) of channel c: PyTorch's."""
    return F.pixel_shuffle(x, upscale_factor)


@mil("pixel_unshuffle")
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    return F.pixel_unshuffle(x, downscale_factor)


@mil("depth_to_space")
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Channel (i, j, c) goes to pixel (i, j) of channel c: TensorFlow's, from which the converter maps it."""
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, block_size, block_size, channels // block_size**2, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * block_size, width * block_size)


@mil("space_to_depth")
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """The inverse of `depth_to_space`."""
    batch, channels, height, width = x.shape
    rows, columns = height // block_size, width // block_size
    blocks = x.reshape(batch, channels, rows, block_size, columns, block_size)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, rows, columns)


@mil("space_to_batch")
def space_to_batch(x: Tensor, block_shape: list[int], paddings: list[int]) -> Tensor:
    """Pixel (i, j) of each block goes to batch (i, j, n): TensorFlow's SpaceToBatchND."""
    x = F.pad(x, [paddings[2], paddings[3], paddings[0], paddings[1]])
    batch, channels, height, width = x.shape
    rows, columns = height // block_shape[0], width // block_shape[1]
    blocks = x.reshape(batch, channels, rows, block_shape[0], columns, block_shape[1])
    return blocks.permute(3, 5, 0, 1, 2, 4).reshape(-1, channels, rows, columns)


@mil("batch_to_space")
def batch_to_space(x: Tensor, block_shape: list[int], crops: list[int]) -> Tensor:
    """The inverse of `space_to_batch`."""
    batch, channels, rows, columns = x.shape
    height, width = rows * block_shape[0], columns * block_shape[1]
    blocks = x.reshape(*block_shape, batch // math.prod(block_shape), channels, rows, columns)
    whole = blocks.permute(2, 3, 4, 0, 5, 1).reshape(-1, channels, height, width)
    return whole[:, :, crops[0] : height - crops[1], crops[2] : width - crops[3]]
