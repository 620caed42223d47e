"""The table of operations: a MIL name -> the function that computes it, and what is refused by name.

A function's parameters carry MIL's own names, and their annotations say how each input is handed over:

    Tensor              the tensor, widened (see `values`)
    int, float, bool    a scalar
    list[int], ...      a small tensor, as a list
    tuple[Tensor, ...]  MIL's tuples of tensors, each widened
    str                 a string
    Any                 as it is stored: lists, states, and what a branch or a loop passes through

Two names are given by the interpreter: `opset` (15 to 18, the iOS version whose definition holds) and
`blocks` (the nested blocks of control flow). MIL fills defaults in when a program is read, so a default
stands here only where MIL's default is "nothing".
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from edgewright.targets.coreml.reference.values import widen

Function = Callable[..., Any]
Limit = Callable[[Any], "str | None"]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True)
class Kernel:
    """One operation: its function and how it takes each input."""

    function: Function
    takes: Mapping[str, Function]
    given: frozenset[str]

    def __call__(self, inputs: Mapping[str, Any], opset: int, blocks: Sequence[Function]) -> Any:
        taken = {name: self.takes[name](value) for name, value in inputs.items()}
        given = {"opset": opset, "blocks": blocks}
        return self.function(**taken, **{name: given[name] for name in self.given})


KERNELS: dict[str, Kernel] = {}
LIMITS: dict[str, list[Limit]] = {}

REFUSED = {
    "_const_symbolic": "it exists only inside coremltools' tests",
    "random_bernoulli": "its values are random",
    "random_categorical": "its values are random",
    "random_normal": "its values are random",
    "random_uniform": "its values are random",
}
"""Operations that are known and refused, with the reason."""


def mil(name: str) -> Callable[[F], F]:
    """Enter a function into the table as the operation `name`."""

    def enter(function: F) -> F:
        assert name not in KERNELS, f"{name} is entered twice"
        hints = typing.get_type_hints(function)
        hints.pop("return", None)
        given = frozenset(hints) & {"opset", "blocks"}
        takes = {parameter: _taking(hint) for parameter, hint in hints.items() if parameter not in given}
        KERNELS[name] = Kernel(function, takes, given)
        return function

    return enter


def limit(*names: str) -> Callable[[Limit], Limit]:
    """Enter a check of an operation as the file states it: the reason why it is refused, or None. Asked on
    loading."""

    def enter(check: Limit) -> Limit:
        for name in names:
            LIMITS.setdefault(name, []).append(check)
        return check

    return enter


def _taking(hint: Any) -> Function:
    """The conversion for one annotation."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
    if hint is Any:
        return lambda value: value
    if hint is Tensor:
        return widen
    if hint is str:
        return str
    if hint in (int, float, bool):
        return lambda value: hint(value.item())
    origin, (element, *_) = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return lambda value: [element(item) for item in value.flatten().tolist()]
    assert origin is tuple, f"no conversion for {hint}"
    take = _taking(element)
    return lambda values: tuple(take(value) for value in values)
