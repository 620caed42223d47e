"""Operations on whole tensors: filling, padding, counting, ordering.

Source: coremltools 9, mil/ops/defs/iOS15/tensor_operation.py; iOS16 adds fill_like and `sort` and
`return_indices` of topk; iOS17 adds dtypes and k = -1 of topk.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewright.targets.coreml.reference.registry import limit, mil
from edgewright.targets.coreml.reference.values import UnclearError


@mil("fill")
def fill(shape: list[int], value: Tensor) -> Tensor:
    return value.expand(shape)


@mil("fill_like")
def fill_like(ref_tensor: Tensor, value: Tensor) -> Tensor:
    return value.expand(ref_tensor.shape)


@mil("shape")
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@mil("range_1d")
def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """numpy's arange."""
    return torch.arange(start.item(), end.item(), step.item())


@mil("tile")
def tile(x: Tensor, reps: list[int]) -> Tensor:
    return x.tile(reps)


@mil("band_part")
def band_part(x: Tensor, lower: int, upper: int) -> Tensor:
    """The diagonals from `lower` below to `upper` above the main one; a negative number keeps that whole
    side."""
    rows, columns = torch.arange(x.shape[-2])[:, None], torch.arange(x.shape[-1])
    band = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        band &= rows - columns <= lower
    if upper >= 0:
        band &= columns - rows <= upper
    return torch.where(band, x, torch.zeros((), dtype=x.dtype))


@mil("cumsum")
def cumsum(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    """Exclusive: the sum of what comes before, so the first is 0; reverse: from the end."""
    x = x.flip(axis) if reverse else x
    sums = torch.cumsum(x, axis)
    if exclusive:
        sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums.narrow(axis, 0, x.shape[axis] - 1)], axis)
    return sums.flip(axis) if reverse else sums


@mil("non_zero")
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x)


@mil("one_hot")
def one_hot(indices: Tensor, one_hot_vector_size: int, axis: int, on_value: Tensor, off_value: Tensor) -> Tensor:
    if bool(((indices < 0) | (indices >= one_hot_vector_size)).any()):
        raise UnclearError(f"an index lies outside of a vector of {one_hot_vector_size}")
    positions = torch.arange(one_hot_vector_size)
    marked = torch.where(indices.unsqueeze(-1) == positions, on_value, off_value)
    return marked.movedim(-1, axis % marked.dim())


@mil("pad")
def pad(x: Tensor, pad: list[int], mode: str, constant_val: Tensor) -> Tensor:
    """`pad` counts from the last dimensions; reflect and replicate take each dimension in turn, as numpy
    does."""
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    if mode == "constant":
        return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=constant_val.item())
    for axis, (before, after) in enumerate(pairs, start=x.dim() - len(pairs)):
        size = x.shape[axis]
        if mode == "reflect" and max(before, after) > size - 1:
            raise UnclearError(f"reflecting {max(before, after)} elements of a dimension of {size}")
        positions = torch.arange(-before, size + after)
        if mode == "reflect":
            positions = size - 1 - (size - 1 - positions.abs()).abs()
        x = x.index_select(axis, positions.clamp(0, size - 1))
    return x


@mil("argsort")
def argsort(x: Tensor, axis: int, ascending: bool) -> Tensor:
    """Equal values stay in their order; MIL promises none."""
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True)


@mil("topk")
def topk(
    x: Tensor,
    k: int,
    axis: int,
    ascending: bool,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, Tensor]:
    """Sorted always, which `sort` false permits; of equal values the first comes first. k = -1 takes all."""
    indices = torch.argsort(x, dim=axis, descending=not ascending, stable=True)
    indices = indices.narrow(axis, 0, x.shape[axis] if k == -1 else k)
    values = torch.take_along_dim(x, indices, axis)
    return (values, indices) if return_indices else values


@limit("pad")
def known_pad_mode(op: Any) -> str | None:
    return None if op.mode.val in ("constant", "reflect", "replicate") else f"mode {op.mode.val!r}"
