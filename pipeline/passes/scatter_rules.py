"""Rules for `DecomposeOperators` that scatter to places that the inputs name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewright.pipeline.passes.decompose_operators import Rewritten
from edgewright.pipeline.passes.dtype_rules import compute_as_numbers

MOST_COMPARED = 2**22  # elements that a scatter may become: 16 MiB of activations
REDUCTIONS = {"add": "sum", "multiply": "prod"}  # what scatter calls them, and scatter_reduce
JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "prod": torch.mul,
    "amax": torch.maximum,
    "amin": torch.minimum,
}


def reduce_where_found(
    data: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Rewritten:
    """scatter_reduce(x, axis, i, s, "sum") -> x + the sum over j of where(i[j] == place, s[j], 0), up to a size.

    So with the other reductions; for extremes, what is not found counts as the other extreme.
    """
    if not data.dim():
        return scatter_fitted(reduce_where_found)(data, dim, index, src, reduce, include_self=include_self)
    if index.numel() * data.shape[dim] > MOST_COMPARED or data.dtype == torch.bool:
        return NotImplemented
    if reduce == "mean":
        return divide_by_count(reduce_where_found)(data, dim, index, src, reduce, include_self=include_self)
    used = _first(src, index.shape).movedim(dim, -1).unsqueeze(-2)
    hits = index.movedim(dim, -1).unsqueeze(-2) == torch.arange(data.shape[dim]).unsqueeze(-1)
    if reduce == "sum":
        found = torch.where(hits, used, 0).sum(-1, dtype=data.dtype)
    elif reduce == "prod":
        found = torch.where(hits, used, 1).prod(-1, dtype=data.dtype)
    elif reduce == "amax":
        found = torch.where(hits, used, used.amin([-1], keepdim=True)).amax([-1])
    else:
        found = torch.where(hits, used, used.amax([-1], keepdim=True)).amin([-1])
    missing = [0] * (2 * data.dim())  # index may be smaller than data on the other axes
    for axis in range(data.dim()):
        if axis != dim % data.dim():
            missing[-1 - 2 * axis] = data.shape[axis] - index.shape[axis]
    found = F.pad(found.movedim(-1, dim), missing)
    if reduce == "sum" and include_self:
        return data + found
    hit = F.pad(hits.to(torch.int32).amax([-1]).movedim(-1, dim), missing) > 0
    return torch.where(hit, JOINS[reduce](data, found) if include_self else found, data)


def add_where_found(data: Tensor, dim: int, index: Tensor, src: Tensor) -> Rewritten:
    """scatter_add is scatter_reduce with "sum"."""
    return reduce_where_found(data, dim, index, src, "sum")


def put_where_found(
    data: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Rewritten:
    """index_put(x, [i], v, accumulate=True) -> scatter_add(x, 0, i, v) in the form above."""
    (index, *others) = indices
    if not accumulate or others or index is None or index.dtype == torch.bool:
        return NotImplemented
    rest = data.shape[1:]
    rows = torch.where(index < 0, index + data.shape[0], index).reshape([-1] + [1] * len(rest))
    updates = values.expand(*index.shape, *rest).reshape(-1, *rest)
    return add_where_found(data, 0, rows.expand(updates.shape), updates)


def scatter_fitted(scatter: Callable[..., Tensor]) -> Callable[..., Rewritten]:
    """scatter_add(x, axis, index, s), s larger than index -> the same with the first elements of s.

    And of tensors without axes -> of ones with a single axis.
    """

    def rule(data: Tensor, dim: int, index: Tensor, src: Tensor | float, *rest: str, **how: Any) -> Rewritten:
        used = _first(src, index.shape) if isinstance(src, Tensor) else src
        if data.dim():
            return NotImplemented if used is src else scatter(data, dim, index, used, *rest, **how)
        one = used.reshape(1) if isinstance(used, Tensor) else used
        found = scatter(data.reshape(1), 0, index.reshape(1), one, *rest, **how)
        return found if found is NotImplemented else found.squeeze(0)

    return rule


def divide_by_count(scatter: Callable[..., Tensor]) -> Callable[..., Rewritten]:
    """scatter_reduce(x, axis, index, s, "mean") -> the same with "sum", over the same of ones."""

    def rule(
        data: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
    ) -> Rewritten:
        if reduce != "mean":
            return scatter_fitted(scatter)(data, dim, index, src, reduce, include_self=include_self)
        src = _first(src, index.shape)
        sums = scatter(data, dim, index, src, "sum", include_self=include_self)
        counts = scatter(torch.ones_like(data), dim, index, torch.ones_like(src), "sum", include_self=include_self)
        return sums / counts if data.is_floating_point() else torch.div(sums, counts, rounding_mode="floor")

    return rule


def scatter_by_reduction(scatter: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """scatter(x, axis, index, s, reduce="add") -> scatter_reduce(x, axis, index, s, "sum")."""

    def rule(data: Tensor, dim: int, index: Tensor, src: Tensor | float, *, reduce: str) -> Tensor:
        updates = src if isinstance(src, Tensor) else torch.full_like(index, src, dtype=data.dtype)
        return scatter(data, dim, index, _first(updates, index.shape), REDUCTIONS[reduce])

    return rule


def scatter_by_wide_index(operation: Callable[..., Tensor]) -> Callable[..., Rewritten]:
    """scatter(x, axis, index, s), index in 32 bits -> the same with index in 64."""

    def rule(data: Tensor, dim: int, index: Tensor, src: Tensor | float) -> Rewritten:
        return NotImplemented if index.dtype == torch.int64 else operation(data, dim, index.to(torch.int64), src)

    return rule


def scatter_in_part(operation: Callable[..., Tensor]) -> Callable[..., Rewritten]:
    """scatter(x, axis, i, s), i smaller than x on another axis -> that part of x scattered to, and the rest, by cat.

    So with s larger than i. Booleans are scattered as integers.
    """

    def put(data: Tensor, dim: int, index: Tensor, src: Tensor | float, **how: Any) -> Tensor:
        axis = next(iter(_smaller(data, dim, index)), None)
        if axis is None:
            return operation(data, dim, index, src, **how)
        size = index.shape[axis]
        part = put(data.narrow(axis, 0, size), dim, index, src, **how)
        return torch.cat([part, data.narrow(axis, size, data.shape[axis] - size)], axis)

    def rule(data: Tensor, dim: int, index: Tensor, src: Tensor | float, **how: Any) -> Rewritten:
        if not data.dim() and data.dtype != torch.bool:
            return scatter_fitted(operation)(data, dim, index, src, **how)
        used = _first(src, index.shape) if isinstance(src, Tensor) else src
        if data.dtype == torch.bool:
            return compute_as_numbers(partial(put, **how))(data, dim, index, used)
        whole = not isinstance(src, Tensor) or src.shape == index.shape
        return NotImplemented if whole and not _smaller(data, dim, index) else put(data, dim, index, used, **how)

    return rule


def _first(data: Tensor, sizes: Sequence[int]) -> Tensor:
    """The first elements on each axis."""
    for axis, size in enumerate(sizes):
        data = data.narrow(axis, 0, size) if size < data.shape[axis] else data
    return data


def _smaller(data: Tensor, dim: int, index: Tensor) -> list[int]:
    """The other axes on which an index is smaller than what it scatters to."""
    axes = (axis for axis in range(data.dim()) if axis != dim % data.dim())
    return [axis for axis in axes if index.shape[axis] < data.shape[axis]]
