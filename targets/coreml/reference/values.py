"""What flows through a program: tensors in the dtypes that the program states, strings, lists and states.

A float16 value is stored as float16. An operation receives its tensors widened (float16 as float32, small
integers as int32), computes, and its result is rounded to the dtype that the program states for it: every
float16 operation is computed in float32 and rounded once, at its output.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = "np.ndarray[Any, Any]"

TORCH_DTYPES = {
    "bool": torch.bool,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
"""By MIL's name; integers of fewer than eight bits are stored one to a byte."""

_WIDE = {
    torch.float16: torch.float32,
    torch.int8: torch.int32,
    torch.int16: torch.int32,
    torch.uint8: torch.int32,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
}


class UnclearError(Exception):
    """What MIL's definitions leave open, or this interpreter does not handle; it becomes a TargetError that
    names the operation."""


@dataclass(frozen=True)
class MilList:
    """A MIL list: its elements are zeros at first, or None where their shape is known at run time only."""

    elements: tuple[Tensor | None, ...]
    blank: Tensor | None
    dynamic: bool


@dataclass(frozen=True)
class Labels:
    """The classes of a classifier."""

    names: tuple[str | int, ...]


@dataclass
class State:
    """A state's present content. Tensors are never written in place: an update puts a new one here."""

    content: Tensor


@dataclass
class States:
    """The states of one sequence of runs, by name, as Core ML's MLState: all zeros at first."""

    by_name: dict[str, State] = field(default_factory=dict)


def widen(value: Tensor) -> Tensor:
    """The value in the dtype that operations compute in."""
    return value.to(_WIDE.get(value.dtype, value.dtype))


def round_to(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The result of an operation in the dtype that the program states: float16 to nearest even, integers
    toward zero."""
    return value if value.dtype == dtype else value.to(dtype)


def from_numpy(array: Array) -> Tensor:
    """A tensor over the same memory, which is only ever read; small integers come one to a byte."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.metadata is not None:
        array = array.view(np.dtype(array.dtype.str))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def to_numpy(value: object) -> Array:
    """An array of its own: nothing that the caller writes to it reaches a weight."""
    return np.array(value.numpy() if isinstance(value, Tensor) else value)
