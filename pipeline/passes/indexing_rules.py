"""Rules for `DecomposeOperators` that look values up, or put them, at places known from sizes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewright.pipeline.passes.decompose_operators import Rewritten


def look_up_bags(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor | None, ...]:
    """embedding_bag(w, i, offsets) -> embedding(w, i), whose rows a matrix sums by bag, or the largest of each bag.

    Its other results (where each row went) are for gradients: there are none.
    """
    places = torch.arange(indices.shape[0])
    bag = (places.unsqueeze(0) >= offsets.unsqueeze(1)).to(torch.int64).sum(0) - 1
    inside = bag.unsqueeze(0) == torch.arange(offsets.shape[0] - include_last_offset).unsqueeze(1)
    if padding_idx is not None:
        inside = inside & (indices != padding_idx % weight.shape[0]).unsqueeze(0)
    rows, chosen = F.embedding(indices, weight), inside.to(weight.dtype)
    if mode == 2:
        largest = torch.where(inside.unsqueeze(-1), rows.unsqueeze(0), -math.inf).amax([1])
        return torch.where(chosen.sum(1, keepdim=True) > 0, largest, 0.0), None, None, None
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    sums = torch.mm(chosen, rows)
    if mode == 1:
        sums = sums / chosen.sum(1, keepdim=True).clamp(min=1.0)
    return sums, None, None, None


def pad_by_planes(data: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Rewritten:
    """pad(x, amounts, "reflect") -> the same of `[n, c, height, width]`, amounts >= 0: LiteRT's kernel is for those.

    Lines get a height of one; volumes are padded in two steps, their planes, then their depth. What a negative amount
    takes off is sliced off last: the other side may reflect it.
    """
    axes = len(pad) // 2
    if mode != "reflect" or (axes == 2 and data.dim() == 4 and min(pad) >= 0):
        return NotImplemented
    grown = [max(amount, 0) for amount in pad]
    images = data.flatten(0, -4) if axes == 3 else data.unsqueeze(-2) if axes == 1 else data
    images = images if images.dim() == 4 else images.unsqueeze(0)
    padded = F.pad(images, grown[:4] if axes > 1 else [*grown, 0, 0], mode)
    sizes = list(padded.shape[-min(axes, 2) :])
    if axes == 3:
        padded = F.pad(padded.flatten(2).unsqueeze(0), [0, 0, *grown[4:]], mode)
        sizes.insert(0, padded.shape[2])
    padded = padded.reshape(*data.shape[:-axes], *sizes)
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        if min(before, after) < 0:
            padded = padded.narrow(-axis, max(-before, 0), data.shape[-axis] + before + after)
    return padded


def pad_by_places(data: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Rewritten:
    """pad(x, amounts, "replicate") with a negative amount -> index_select of each axis."""
    if mode != "replicate" or min(pad) >= 0:
        return NotImplemented
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        size = data.shape[-axis]
        data = data.index_select(-axis, (torch.arange(before + size + after) - before).clamp(0, size - 1))
    return data


def pick_nearest(
    data: Tensor, output_size: Sequence[int] | None = None, scale_factors: Sequence[float] | None = None
) -> Rewritten:
    """upsample_nearest2d(x, sizes) -> index_select of each axis, unless each size becomes a multiple."""
    sizes = data.shape[2:]
    wanted = output_size or [int(size * factor) for size, factor in zip(sizes, scale_factors or (), strict=True)]
    if all(out % size == 0 for size, out in zip(sizes, wanted, strict=True)):
        return NotImplemented
    for axis, (size, out) in enumerate(zip(sizes, wanted, strict=True), start=2):
        step = size / out if scale_factors is None else 1 / scale_factors[axis - 2]
        places = (torch.arange(out, dtype=torch.float32) * step).floor().to(torch.int64).clamp(max=size - 1)
        data = data.index_select(axis, places)
    return data


def sort_by_topk(data: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """sort(x) -> topk of all x, or of what falls as x rises; equal ones come in the order that topk gives them."""
    if not data.dim():
        return data, torch.zeros_like(data, dtype=torch.int64)
    numbers = data.to(torch.int32) if data.dtype == torch.bool else data
    moved = (numbers if descending else -1 - numbers if not data.is_floating_point() else -numbers).movedim(dim, -1)
    values, places = torch.topk(moved, moved.shape[-1])
    values = values if descending else -1 - values if not data.is_floating_point() else -values
    return values.movedim(-1, dim).to(data.dtype), places.movedim(-1, dim)


def sort_in_order(sort: Callable[..., Any], *, keeps_order: bool) -> Callable[..., Any]:
    """sort(x, stable=True) -> sort(x), where that keeps the order of equal ones; or where none is asked for."""

    def rule(data: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False) -> Any:
        return NotImplemented if stable and not keeps_order else sort(data, dim, descending)

    return rule


def flip_in_turn(data: Tensor, dims: Sequence[int]) -> Rewritten:
    """flip(x, [0, 2]) -> flip(flip(x, [0]), [2]): LiteRT flips neighbouring axes only."""
    axes = sorted(axis % data.dim() for axis in dims if data.dim())
    if not axes or axes[-1] - axes[0] < len(axes):
        return NotImplemented
    for axis in axes:
        data = data.flip([axis])
    return data


def find_one(
    data: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Tensor, Tensor] | Any:
    """topk(x) of a tensor without axes -> x, at place 0."""
    return NotImplemented if data.dim() else (data, torch.zeros_like(data, dtype=torch.int64))
