"""Branches, loops, lists, states and classifiers.

Source: coremltools 9, mil/ops/defs/iOS15/control_flow.py and classify.py, iOS18/states.py,
coreml_dialect/ops.py (coreml_update_state is what coremltools reads `write_state` back as).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgewright.targets.coreml.reference.registry import mil
from edgewright.targets.coreml.reference.values import TORCH_DTYPES, Labels, MilList, State, UnclearError

Blocks = list[Callable[..., list[Any]]]


@mil("cond")
def cond(pred: bool, blocks: Blocks) -> list[Any]:
    when_true, when_false = blocks
    return when_true() if pred else when_false()


@mil("while_loop")
def while_loop(loop_vars: tuple[Any, ...], blocks: Blocks) -> list[Any]:
    condition, body = blocks
    values = list(loop_vars)
    while condition(*values)[0].item():
        values = body(*values)
    return values


@mil("make_list")
def make_list(init_length: int, dynamic_length: bool, elem_shape: Any, dtype: str) -> MilList:
    """Zeros; a size that stands as a string in `elem_shape` is known only when an element is written."""
    blank = None
    if not any(isinstance(size, str) for size in elem_shape):
        blank = torch.zeros([int(size) for size in elem_shape], dtype=TORCH_DTYPES[dtype])
    return MilList((blank,) * init_length, blank, dynamic_length)


@mil("list_length")
def list_length(ls: Any) -> Tensor:
    return torch.tensor(len(ls.elements), dtype=torch.int32)


def _written(ls: MilList, index: int) -> Tensor:
    if not 0 <= index < len(ls.elements):
        raise UnclearError(f"index {index} lies outside of a list of {len(ls.elements)}")
    element = ls.elements[index]
    if element is None:
        raise UnclearError(f"element {index} of a list of unknown shape was never written")
    return element


def _replaced(ls: MilList, index: int, value: Tensor) -> MilList:
    """A list of dynamic length grows to hold the index, with blank elements before it."""
    if index < 0 or (index >= len(ls.elements) and not ls.dynamic):
        raise UnclearError(f"index {index} lies outside of a list of {len(ls.elements)}")
    elements = list(ls.elements) + [ls.blank] * (index + 1 - len(ls.elements))
    elements[index] = value
    return MilList(tuple(elements), ls.blank, ls.dynamic)


@mil("list_write")
def list_write(ls: Any, index: int, value: Any) -> MilList:
    return _replaced(ls, index, value)


@mil("list_read")
def list_read(ls: Any, index: int) -> Tensor:
    return _written(ls, index)


@mil("list_gather")
def list_gather(ls: Any, indices: list[int]) -> Tensor:
    return torch.stack([_written(ls, index) for index in indices])


@mil("list_scatter")
def list_scatter(ls: Any, indices: list[int], value: Any) -> MilList:
    for index, element in zip(indices, value, strict=True):
        ls = _replaced(ls, index, element)
    result: MilList = ls
    return result


@mil("read_state")
def read_state(input: Any) -> Tensor:
    state: State = input
    return state.content


@mil("coreml_update_state")
def coreml_update_state(state: Any, value: Any) -> Any:
    """The state takes a copy of the value, which is also the result."""
    state.content = value.clone()
    return value


@mil("classify")
def classify(probabilities: Tensor, classes: Any) -> tuple[Any, Tensor]:
    """The label of the greatest probability (of equal ones, the first), and the probabilities in the order of
    the classes."""
    labels: Labels = classes
    flat = probabilities.flatten()
    return labels.names[int(flat.argmax())], flat
