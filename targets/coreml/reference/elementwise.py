"""Elementwise operations of one and two operands, `cast` and `select`.

Source: coremltools 9, mil/ops/defs/iOS15/elementwise_unary.py, elementwise_binary.py and control_flow.py
(select); iOS17/elementwise_unary.py lets an epsilon have another dtype than `x` and `cast` have small
integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgewright.targets.coreml.reference.registry import mil
from edgewright.targets.coreml.reference.values import TORCH_DTYPES, UnclearError

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
"""`round` takes halves to the even integer, as numpy's in MIL's value inference."""

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "sub": torch.sub,
}
"""`mod` has the sign of the divisor, as Python's %."""


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def kernel(x: Tensor) -> Tensor:
        return function(x)

    return kernel


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return kernel


for _name, _one in UNARY.items():
    mil(_name)(_unary(_one))
for _name, _two in BINARY.items():
    mil(_name)(_binary(_two))


@mil("identity")
def identity(x: Any) -> Any:
    """Anything, lists and dictionaries too."""
    return x


@mil("exp2")
def exp2(x: Tensor) -> Tensor:
    if not x.is_floating_point() and bool((x < 0).any()):
        raise UnclearError("a negative integer power of two is no integer")
    return torch.exp2(x) if x.is_floating_point() else torch.exp2(x.double())


@mil("pow")
def power(x: Tensor, y: Tensor) -> Tensor:
    if not y.is_floating_point() and bool((y < 0).any()):
        raise UnclearError("an integer to a negative integer power is no integer")
    return torch.pow(x, y)


@mil("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """Of integers, the whole part (Apple's test test_real_div_int_builder_to_backend expects it of positive
    ones); which way a negative quotient is rounded is not stated."""
    if x.is_floating_point():
        return torch.true_divide(x, y)
    if bool((y == 0).any()):
        raise UnclearError("an integer is divided by zero")
    quotient = torch.div(x, y, rounding_mode="trunc")
    if not torch.equal(quotient, torch.div(x, y, rounding_mode="floor")):
        raise UnclearError("a negative quotient of integers has a remainder")
    return quotient


@mil("clip")
def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, alpha), beta)


@mil("threshold")
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.maximum(x, alpha)


@mil("inverse")
def inverse(x: Tensor, epsilon: Tensor) -> Tensor:
    return torch.reciprocal(x + epsilon)


@mil("log")
def log(x: Tensor, epsilon: Tensor) -> Tensor:
    return torch.log(x + epsilon)


@mil("rsqrt")
def rsqrt(x: Tensor, epsilon: Tensor) -> Tensor:
    return torch.rsqrt(x + epsilon)


@mil("cast")
def cast(x: Tensor, dtype: str) -> Tensor:
    """Toward zero, and to bool by "not zero"; a number that the integer dtype cannot hold is refused."""
    target = TORCH_DTYPES[dtype]
    if target == torch.bool or target.is_floating_point or x.dtype == torch.bool:
        return x.to(target)
    whole, limits = torch.trunc(x) if x.is_floating_point() else x, torch.iinfo(target)
    if not bool(((whole >= limits.min) & (whole <= limits.max)).all()):
        raise UnclearError(f"a value does not fit {dtype}")
    return x.to(target)


@mil("select")
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)
