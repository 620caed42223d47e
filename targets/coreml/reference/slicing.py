"""Slices.

Source: coremltools 9, mil/ops/defs/iOS15/tensor_transformation.py and _utils.py (solve_slice_by_index_slice);
iOS18/tensor_transformation.py (slice_update).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from edgewright.targets.coreml.reference.registry import mil
from edgewright.targets.coreml.reference.values import UnclearError

Masks = list[bool] | None


def indices_by_index(
    shape: Sequence[int],
    begin: list[int],
    end: list[int],
    stride: list[int] | None,
    begin_mask: Masks,
    end_mask: Masks,
    squeeze_mask: Masks,
) -> list[range]:
    """The positions that numpy's slice begin:end:stride takes in each dimension.

    A masked begin or end means "from the first" or "to the last" in the direction of the stride; a squeezed
    dimension takes `begin` alone.
    """
    taken = []
    for axis, size in enumerate(shape):
        first = None if begin_mask and begin_mask[axis] else begin[axis]
        last = None if end_mask and end_mask[axis] else end[axis]
        if squeeze_mask and squeeze_mask[axis]:
            start = 0 if first is None else first
            if not -size <= start < size:
                raise UnclearError(f"index {start} lies outside of a dimension of {size}")
            taken.append(range(start % size, start % size + 1))
        else:
            taken.append(range(size)[slice(first, last, stride[axis] if stride else 1)])
    return taken


def _take(x: Tensor, taken: list[range]) -> Tensor:
    for axis, positions in enumerate(taken):
        if len(positions) == x.shape[axis] and positions.step > 0:
            continue
        if positions.step > 0:
            x = x[(slice(None),) * axis + (slice(positions.start, positions.stop, positions.step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(positions)))
    return x


@mil("slice_by_index")
def slice_by_index(
    x: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    x = _take(x, indices_by_index(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask))
    squeezed = [axis for axis, squeeze in enumerate(squeeze_mask or []) if squeeze]
    return x.squeeze(squeezed) if squeezed else x


@mil("slice_update")
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    taken = indices_by_index(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    result = x.clone()
    grid = torch.meshgrid([torch.tensor(list(positions)) for positions in taken], indexing="ij")
    result[grid] = update.reshape([len(positions) for positions in taken])
    return result


@mil("slice_by_size")
def slice_by_size(x: Tensor, begin: list[int], size: list[int]) -> Tensor:
    """A size of -1 takes all that remains."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        first = first + x.shape[axis] if first < 0 else first
        count = x.shape[axis] - first if count == -1 else count
        if not 0 <= first <= first + count <= x.shape[axis]:
            raise UnclearError(f"the slice {first}:{first + count} leaves a dimension of {x.shape[axis]}")
        x = x.narrow(axis, first, count)
    return x


@mil("split")
def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: list[int] | None = None
) -> tuple[Tensor, ...]:
    if split_sizes is None:
        assert num_splits is not None, "MIL asks for one of the two"
        if x.shape[axis] % num_splits:
            raise UnclearError(f"{num_splits} even parts of a dimension of {x.shape[axis]}")
        return x.chunk(num_splits, axis)
    if sum(split_sizes) != x.shape[axis]:
        raise UnclearError(f"parts of {split_sizes} of a dimension of {x.shape[axis]}")
    return x.tensor_split(list(itertools.accumulate(split_sizes[:-1])), axis)


@mil("crop")
def crop(x: Tensor, crop_height: list[int], crop_width: list[int]) -> Tensor:
    height, width = x.shape[-2:]
    return x[..., crop_height[0] : height - crop_height[1], crop_width[0] : width - crop_width[1]]


@mil("sliding_windows")
def sliding_windows(x: Tensor, axis: int, size: int, stride: int) -> Tensor:
    """The windows in place of `axis`, and their elements behind it."""
    axis %= x.dim()
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)
