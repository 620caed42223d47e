"""Gathers and scatters.

Source: coremltools 9, mil/ops/defs/iOS15/scatter_gather.py; iOS16 adds batch_dims; iOS17 takes negative
indices as out of bounds, where nothing is stated of the result: an index out of bounds is refused, with and
without `validate_indices`.

A scatter applies its updates in order, so of several updates to one place the last stays. Scatters accumulate
in the widened dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgewright.targets.coreml.reference.registry import limit, mil
from edgewright.targets.coreml.reference.values import UnclearError

UFUNCS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def _within(indices: Tensor, size: int, opset: int) -> Tensor:
    """Indices as int64 from 0; negative ones count from the end up to iOS 16."""
    indices = indices.long()
    if opset < 17:
        indices = torch.where(indices < 0, indices + size, indices)
    if bool(((indices < 0) | (indices >= size)).any()):
        raise UnclearError(f"an index lies outside of a dimension of {size}")
    return indices


def _flat(indices: Tensor, shape: torch.Size, opset: int) -> Tensor:
    """Positions of the leading dimensions `shape` in row-major order, from index vectors in the last
    dimension."""
    position = torch.zeros(indices.shape[:-1], dtype=torch.long)
    for place, size in enumerate(shape):
        position = position * size + _within(indices[..., place], size, opset)
    return position


def _scatter_rows(rows: Tensor, positions: Tensor, updates: Tensor, mode: str) -> Tensor:
    """Apply row updates[i] to rows[positions[i]], in order."""
    result, at, values = np.array(rows.numpy()), positions.numpy(), updates.numpy()
    if mode == "update":
        result[at] = values
    else:
        UFUNCS[mode].at(result, at, values)
    return torch.from_numpy(result)


@mil("gather")
def gather(
    x: Tensor, indices: Tensor, axis: int, opset: int, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    """The slices of `x` along `axis` at `indices`; the first `batch_dims` dimensions of both go together."""
    axis %= x.dim()
    indices = _within(indices, x.shape[axis], opset)
    if batch_dims == 0:
        taken = x.index_select(axis, indices.flatten())
        return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    batches = zip(x.flatten(0, batch_dims - 1), indices.flatten(0, batch_dims - 1), strict=True)
    each = torch.stack([gather(part, where, axis - batch_dims, opset) for part, where in batches])
    return each.reshape(*x.shape[:batch_dims], *each.shape[1:])


@mil("gather_along_axis")
def gather_along_axis(x: Tensor, indices: Tensor, axis: int, opset: int, validate_indices: bool = False) -> Tensor:
    return torch.take_along_dim(x, _within(indices, x.shape[axis], opset), axis)


@mil("gather_nd")
def gather_nd(x: Tensor, indices: Tensor, opset: int, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """x[indices[i, ...]] for index vectors in the last dimension of `indices`."""
    if batch_dims == 0:
        depth = indices.shape[-1]
        position = _flat(indices, x.shape[:depth], opset)
        rows = x.reshape(-1, *x.shape[depth:])
        return rows[position.flatten()].reshape(*position.shape, *x.shape[depth:])
    batches = zip(x.flatten(0, batch_dims - 1), indices.flatten(0, batch_dims - 1), strict=True)
    each = torch.stack([gather_nd(part, where, opset) for part, where in batches])
    return each.reshape(*x.shape[:batch_dims], *each.shape[1:])


@mil("scatter")
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int,
    mode: str,
    opset: int,
    validate_indices: bool = False,
) -> Tensor:
    """Slice i of `updates` along `axis` goes to slice indices[i]."""
    axis %= data.dim()
    places = _within(indices, data.shape[axis], opset)
    return _scatter_rows(data.movedim(axis, 0), places, updates.movedim(axis, 0), mode).movedim(0, axis)


@mil("scatter_along_axis")
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int,
    mode: str,
    opset: int,
    validate_indices: bool = False,
) -> Tensor:
    """Each update moves along `axis` to the place that its index names."""
    axis %= data.dim()
    places = [torch.arange(size).reshape(-1, *[1] * (indices.dim() - at - 1)) for at, size in enumerate(indices.shape)]
    places[axis] = _within(indices, data.shape[axis], opset)
    vectors = torch.stack([place.expand(indices.shape) for place in places], -1)
    position = _flat(vectors, data.shape, opset).flatten()
    return _scatter_rows(data.flatten(), position, updates.flatten(), mode).reshape(data.shape)


@mil("scatter_nd")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str, opset: int, validate_indices: bool = False
) -> Tensor:
    """data[indices[i, ...]] takes updates[i, ...]."""
    depth = indices.shape[-1]
    position = _flat(indices, data.shape[:depth], opset)
    rows = data.reshape(-1, *data.shape[depth:])
    new = updates.reshape(position.numel(), *data.shape[depth:])
    return _scatter_rows(rows, position.flatten(), new, mode).reshape(data.shape)


@limit("scatter", "scatter_along_axis", "scatter_nd")
def known_scatter_mode(op: Any) -> str | None:
    from coremltools.converters.mil.mil import types

    if op.mode.val not in {"update", *UFUNCS}:
        return f"mode {op.mode.val!r}"
    if op.mode.val == "div" and types.is_int(op.data.dtype):
        return "the quotient of integers has no stated rounding"
    return None
