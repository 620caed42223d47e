"""Reductions.

Source: coremltools 9, mil/ops/defs/iOS15/reduction.py: value inference computes with numpy and casts back to
the input's dtype, so the mean of integers is cut toward zero; iOS17/reduction.py adds `output_dtype` to the
arg reductions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgewright.targets.coreml.reference.registry import limit, mil

Reduce = Callable[[Tensor, "list[int]", bool], Tensor]


def _prod(x: Tensor, axes: list[int], keep_dims: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep_dims)
    return x


def _sum(x: Tensor, axes: list[int], keep_dims: bool) -> Tensor:
    """In 64 bits for integers, so that only the result wraps."""
    return torch.sum(x, axes, keepdim=keep_dims)


REDUCTIONS: dict[str, Reduce] = {
    "reduce_l1_norm": lambda x, axes, keep: _sum(x.abs(), axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: torch.sqrt(_sum(x.square(), axes, keep)),
    "reduce_log_sum": lambda x, axes, keep: torch.log(_sum(x, axes, keep)),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "reduce_max": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "reduce_mean": lambda x, axes, keep: torch.mean(x if x.is_floating_point() else x.double(), axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
    "reduce_prod": _prod,
    "reduce_sum": _sum,
    "reduce_sum_square": lambda x, axes, keep: _sum(x.square(), axes, keep),
}


def _reduction(function: Reduce) -> Callable[..., Tensor]:
    def kernel(x: Tensor, keep_dims: bool, axes: list[int] | None = None) -> Tensor:
        if axes == []:  # of each element alone; PyTorch would take all axes
            return function(x.unsqueeze(-1), [-1], False)
        return function(x, list(range(x.dim())) if axes is None else axes, keep_dims)

    return kernel


for _name, _function in REDUCTIONS.items():
    mil(_name)(_reduction(_function))


@mil("reduce_argmax")
def reduce_argmax(x: Tensor, axis: int, keep_dims: bool, output_dtype: str = "int32") -> Tensor:
    """Of equal values, the first; MIL promises none."""
    return torch.argmax(x, axis, keepdim=keep_dims)


@mil("reduce_argmin")
def reduce_argmin(x: Tensor, axis: int, keep_dims: bool, output_dtype: str = "int32") -> Tensor:
    """Of equal values, the first; MIL promises none."""
    return torch.argmin(x, axis, keepdim=keep_dims)


@limit("reduce_l2_norm", "reduce_log_sum", "reduce_log_sum_exp")
def irrational_of_integers(op: Any) -> str | None:
    from coremltools.converters.mil.mil import types

    return "of integers it has no stated rounding" if types.is_int(op.x.dtype) else None
