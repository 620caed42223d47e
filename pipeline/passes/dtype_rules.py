"""Rules for `DecomposeOperators` about dtypes: what a format computes in floats or integers alone, computed there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor

from edgewright.pipeline.passes.decompose_operators import Rewritten

aten = torch.ops.aten


def compute_in_float(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """sin(x) of integers or booleans -> sin(float32(x)), which is what PyTorch computes."""

    def rule(data: Tensor, *rest: Any) -> Tensor:
        return NotImplemented if data.is_floating_point() else operation(data.to(torch.float32), *rest)

    return rule


def divide_down(data: Tensor, other: Tensor, *, rounding_mode: str | None = None) -> Rewritten:
    """div(a, b, rounding_mode="floor") of floats -> (a - remainder(a, b)) / b, rounded."""
    if rounding_mode != "floor" or not data.is_floating_point():
        return NotImplemented
    whole = torch.floor((data - torch.remainder(data, other)) / other + 0.5)
    return torch.where(other == 0, data / other, whole)


def compute_as_numbers(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """amax(x) of booleans -> bool(amax(int32(x))); so with other booleans that it takes."""

    def rule(data: Tensor, *rest: Any) -> Rewritten:
        if data.dtype != torch.bool:
            return NotImplemented
        numbers = [part.to(torch.int32) if _is_truth(part) else part for part in (data, *rest)]
        return operation(*numbers).to(torch.bool)

    return rule


def compare_numbers(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """gt(a, b) of booleans -> gt(int32(a), int32(b))."""

    def rule(one: Tensor, other: Tensor | float) -> Tensor:
        parts = [part.to(torch.int32) if _is_truth(part) else part for part in (one, other)]
        return operation(*parts) if _is_truth(one) or _is_truth(other) else NotImplemented

    return rule


def _is_truth(value: Tensor | float) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.dtype == torch.bool


def combine_truths(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """maximum(a, b) and max(a, b) of booleans -> logical_or(a, b); minimum -> logical_and."""

    def rule(one: Tensor, other: Tensor) -> Tensor:
        return operation(one, other) if _is_truth(one) and _is_truth(other) else NotImplemented

    return rule


def find_among_numbers(operation: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """max(x, axis) of booleans -> max(int32(x), axis), its values as booleans."""

    def rule(data: Tensor, *rest: Any) -> tuple[Tensor, Tensor] | Any:
        if data.dtype != torch.bool:
            return NotImplemented
        values, places = operation(data.to(torch.int32), *rest)
        return values.to(torch.bool), places

    return rule


def keep_integers(data: Tensor, *rest: Any) -> Tensor:
    """ceil(x) of integers -> x."""
    return NotImplemented if data.is_floating_point() else data


def choose_truths(condition: Tensor, one: Tensor, other: Tensor) -> Rewritten:
    """where(c, a, b) of booleans -> (c and a) or (not c and b)."""
    return (condition & one) | (~condition & other) if _is_truth(one) and _is_truth(other) else NotImplemented


def keep_poles(operation: Callable[..., Tensor], pole: float, *, of_floats: bool) -> Callable[..., Rewritten]:
    """log(x) -> where(x == 0, -inf, log(x)): Core ML adds 1e-45 to x. rsqrt(x) of integers in the same way."""

    def rule(data: Tensor) -> Rewritten:
        if data.is_floating_point() and not of_floats:
            return NotImplemented
        number = data if data.is_floating_point() else data.to(torch.float32)
        number = number if data.dim() else number.reshape(1)  # coremltools chooses among tensors with axes only
        found = torch.where(number == 0, pole, operation(number))
        return found if data.dim() else found.squeeze(0)

    return rule


def limit_integers(data: Tensor, least: float = -1, most: float = 1) -> Rewritten:
    """hardtanh(x) of integers -> minimum(maximum(x, least), most)."""
    if data.is_floating_point():
        return NotImplemented
    low, high = (torch.full([1] * data.dim(), int(limit), dtype=data.dtype) for limit in (least, most))
    return torch.minimum(torch.maximum(data, low), high)


def subtract_multiples(data: Tensor | int, other: Tensor | int) -> Rewritten:
    """remainder(x, y) of integers -> x - y * div(x, y, rounding_mode="floor")."""
    if any(part.is_floating_point() if isinstance(part, Tensor) else part % 1 for part in (data, other)):
        return NotImplemented
    return data - torch.div(data, other, rounding_mode="floor") * other


def copy_at_once(
    data: Tensor, *, dtype: torch.dtype | None = None, non_blocking: bool = False, **rest: Any
) -> Rewritten:
    """to(x, dtype, non_blocking=True) -> to(x, dtype): which device waits for which is nothing to a file."""
    return data.to(dtype or data.dtype) if non_blocking else NotImplemented


def divide_toward_zero(data: Tensor, other: Tensor | int) -> Rewritten:
    """fmod(x, y) of integers -> remainder(x, y), less y where the signs differ."""
    if data.is_floating_point() or (other.is_floating_point() if isinstance(other, Tensor) else other % 1):
        return NotImplemented
    rest = torch.remainder(data, other)
    return torch.where((rest != 0) & ((data < 0) != (other < 0)), rest - other, rest)


def find_sign(data: Tensor) -> Tensor:
    """sign(x) of 64-bit integers or booleans -> (x > 0) - (x < 0)."""
    if data.dtype == torch.bool:
        return data
    return NotImplemented if data.dtype != torch.int64 else (data > 0).to(data.dtype) - (data < 0).to(data.dtype)


def keep_positive(data: Tensor) -> Tensor:
    """relu(x) of integers -> maximum(x, 0)."""
    return NotImplemented if data.is_floating_point() else torch.maximum(data, torch.zeros_like(data))


def take_larger(data: Tensor) -> Tensor:
    """abs(x) of 64-bit integers -> maximum(x, -x)."""
    return NotImplemented if data.dtype != torch.int64 else torch.maximum(data, -data)


def multiply_and_sum(one: Tensor, other: Tensor) -> Rewritten:
    """mm(a, b) and bmm(a, b) of integers -> the sum of a[..., :, :, None] * b[..., None, :, :] over the inner axis."""
    if one.is_floating_point():
        return NotImplemented
    return (one.unsqueeze(-1) * other.unsqueeze(-3)).sum(-2, dtype=one.dtype)


def differ(one: Tensor, other: Tensor) -> Tensor:
    """bitwise_xor(a, b) of booleans -> a != b."""
    return NotImplemented if one.dtype != torch.bool or other.dtype != torch.bool else one != other


SCATTERS = tuple(
    (operation, compute_as_numbers(operation))
    for operation in (aten.select_scatter.default, aten.slice_scatter.default)
)
FLOAT_FUNCTIONS = tuple(
    (operation, compute_in_float(operation))
    for operation in (
        aten.acos.default,
        aten.acosh.default,
        aten.asin.default,
        aten.asinh.default,
        aten.atan.default,
        aten.atanh.default,
        aten.cos.default,
        aten.cosh.default,
        aten.erf.default,
        aten.exp.default,
        aten.expm1.default,
        aten.log.default,
        aten.log10.default,
        aten.log1p.default,
        aten.log2.default,
        aten.rsqrt.default,
        aten.sigmoid.default,
        aten.sin.default,
        aten.sinh.default,
        aten.sqrt.default,
        aten.tan.default,
        aten.tanh.default,
    )
)
ROUNDINGS = tuple(
    (operation, keep_integers)
    for operation in (aten.ceil.default, aten.floor.default, aten.round.default, aten.trunc.default)
)
COMPARISONS = tuple(
    (operation, compare_numbers(operation))
    for name in ("ge", "gt", "le", "lt")
    for operation in (getattr(aten, name).Tensor, getattr(aten, name).Scalar)
)
EXTREMES = (
    (aten.amax.default, compute_as_numbers(torch.amax)),
    (aten.amin.default, compute_as_numbers(torch.amin)),
    (aten.max.default, compute_as_numbers(torch.max)),
    (aten.max.dim, find_among_numbers(aten.max.dim)),
    (aten.max.other, combine_truths(torch.logical_or)),
    (aten.maximum.default, combine_truths(torch.logical_or)),
    (aten.min.default, compute_as_numbers(torch.min)),
    (aten.min.dim, find_among_numbers(aten.min.dim)),
    (aten.min.other, combine_truths(torch.logical_and)),
    (aten.minimum.default, combine_truths(torch.logical_and)),
)
"""Maxima and minima of booleans."""
