"""Rules for `DecomposeOperators` about maximum pooling: what rounds up, and what tells where the maximum was."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewright.pipeline.passes.decompose_operators import Rewritten


def _edges(
    sizes: Sequence[int],
    kernels: Sequence[int],
    steps: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil_mode: bool,
) -> tuple[list[int], list[int]]:
    """How many windows an axis has, and F.pad's amounts that make each of them whole."""
    counts: list[int] = []
    edges: list[int] = []
    for size, kernel, step, pad, dilation in zip(sizes, kernels, steps, pads, dilations, strict=True):
        reach = dilation * (kernel - 1) + 1
        count = (size + 2 * pad - reach + (step - 1) * ceil_mode) // step + 1
        if ceil_mode and (count - 1) * step >= size + pad:  # PyTorch: no window starts in the right padding
            count -= 1
        counts.append(count)
        edges = [pad, max(0, (count - 1) * step + reach - size - pad), *edges]
    return counts, edges


def pool_whole_windows(operation: Callable[..., Tensor], axes: int) -> Callable[..., Tensor]:
    """max_pool(x, ..., ceil_mode=True) -> max_pool(pad(x, -inf), ...) without padding of its own."""

    def rule(
        data: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> Rewritten:
        if not ceil_mode or not data.is_floating_point():
            return NotImplemented
        kernels, pads, dilations = (list(part) * (axes // len(part)) for part in (kernel_size, padding, dilation))
        steps = list(stride) * (axes // len(stride)) if stride else kernels
        _, edges = _edges(data.shape[-axes:], kernels, steps, pads, dilations, ceil_mode)
        return operation(F.pad(data, edges, value=-math.inf), kernels, steps, 0, dilations)

    return rule


def pool_with_places(axes: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """max_pool_with_indices(x, ...) -> its windows by index_select; their maximum, and a table's entry at argmax."""

    def rule(
        data: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> tuple[Tensor, Tensor] | Any:  # or NotImplemented
        if not data.is_floating_point():
            return NotImplemented
        kernels, pads, dilations = (list(part) * (axes // len(part)) for part in (kernel_size, padding, dilation))
        steps = list(stride) * (axes // len(stride)) if stride else kernels
        sizes, lead = data.shape[-axes:], data.shape[:-axes]
        counts, edges = _edges(sizes, kernels, steps, pads, dilations, ceil_mode)
        padded = F.pad(data, edges, value=-math.inf)
        inner, outer = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        window, origin = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        for axis in range(axes):  # row by row: the place of each window, and of each element in one
            steps_in = torch.arange(kernels[axis]) * dilations[axis]
            steps_out = torch.arange(counts[axis]) * steps[axis]
            inner = (inner.unsqueeze(1) * padded.shape[axis - axes] + steps_in).reshape(-1)
            outer = (outer.unsqueeze(1) * padded.shape[axis - axes] + steps_out).reshape(-1)
            window = (window.unsqueeze(1) * sizes[axis] + steps_in).reshape(-1)
            origin = (origin.unsqueeze(1) * sizes[axis] + steps_out - pads[axis]).reshape(-1)
        places = (outer.unsqueeze(1) + inner).reshape(-1)
        windows = padded.reshape(-1, math.prod(padded.shape[-axes:])).index_select(1, places)
        windows = windows.reshape(-1, math.prod(counts), math.prod(kernels))
        found = window.index_select(0, windows.argmax(-1).reshape(-1)).reshape(-1, math.prod(counts)) + origin
        return windows.amax([-1]).reshape(*lead, *counts), found.reshape(*lead, *counts)

    return rule
