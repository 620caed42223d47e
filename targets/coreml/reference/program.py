"""A program as the interpreter runs it: steps over numbered values, with what each step leaves dead.

Constants, and the constexpr operations over them, are computed while a program is built, once; raw data that
only they read is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgewright.errors import TargetError
from edgewright.targets.coreml.reference.registry import KERNELS, Kernel
from edgewright.targets.coreml.reference.values import (
    TORCH_DTYPES,
    Labels,
    UnclearError,
    from_numpy,
    round_to,
)

Environment = dict[int, Any]
Observer = Callable[[str, Any], None]


@dataclass(frozen=True)
class Output:
    key: int
    name: str
    dtype: torch.dtype | None
    """None where the value is no tensor."""


@dataclass(frozen=True)
class Step:
    op: str
    name: str
    kernel: Kernel
    inputs: Mapping[str, int | tuple[int, ...]]
    outputs: tuple[Output, ...]
    blocks: tuple[Block, ...]
    dead: tuple[int, ...]
    """The values that nothing reads after this step."""

    def run(self, environment: Environment, opset: int, observe: Observer | None) -> None:
        inputs = {
            name: environment[key] if isinstance(key, int) else tuple(environment[each] for each in key)
            for name, key in self.inputs.items()
        }
        blocks = [block.bind(environment, opset, observe) for block in self.blocks]
        try:
            results = self.kernel(inputs, opset, blocks)
        except UnclearError as reason:
            raise TargetError(
                f"the Core ML reference interpreter does not run {self.op}: {reason}", where=self.name
            ) from reason
        results = results if isinstance(results, tuple | list) else (results,)
        for output, result in zip(self.outputs, results, strict=True):
            value = result if output.dtype is None else round_to(result, output.dtype)
            environment[output.key] = value
            if observe is not None:
                observe(output.name, value)
        for key in self.dead:
            environment.pop(key, None)


@dataclass(frozen=True)
class Block:
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]

    def run(self, environment: Environment, opset: int, observe: Observer | None) -> list[Any]:
        for step in self.steps:
            step.run(environment, opset, observe)
        return [environment[key] for key in self.outputs]

    def bind(self, environment: Environment, opset: int, observe: Observer | None) -> Callable[..., list[Any]]:
        """The block as a function of its inputs; what it computes is forgotten after each call."""

        def call(*values: Any) -> list[Any]:
            own = dict(zip(self.inputs, values, strict=True))
            return self.run({**environment, **own}, opset, observe)

        return call


class Builder:
    """Turns a function of coremltools' MIL into a block and its constants."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.constants: Environment = {}
        self._keys: dict[int, int] = {}
        self._vars: list[Any] = []

    def key(self, var: Any) -> int:
        """A number for a MIL variable; names are not unique across nested blocks."""
        if id(var) not in self._keys:
            self._keys[id(var)] = len(self._vars)
            self._vars.append(var)
        return self._keys[id(var)]

    def build(self, function: Any) -> Block:
        block = self._block(function, [self.key(var) for var in function.inputs.values()])
        read = set(block.outputs).union(*map(_reads, _walk(block)))
        self.constants = {key: value for key, value in self.constants.items() if key in read}
        return block

    def _block(self, block: Any, inputs: Sequence[int]) -> Block:
        steps = [step for op in block.operations if (step := self._step(op)) is not None]
        outputs = tuple(self.key(var) for var in block.outputs)
        return Block(tuple(inputs), outputs, _with_the_dead(steps, inputs, outputs))

    def _step(self, op: Any) -> Step | None:
        if op.op_type == "const":
            self.constants[self.key(op.outputs[0])] = _constant(op.outputs[0].val)
            return None
        inputs = {
            name: tuple(self.key(each) for each in var) if isinstance(var, list | tuple) else self.key(var)
            for name, var in op.inputs.items()
            if var is not None and not name.startswith("_")
        }
        outputs = tuple(Output(self.key(var), var.name, _dtype(var)) for var in op.outputs)
        blocks = tuple(self._block(block, [self.key(var) for var in block.inputs]) for block in op.blocks)
        step = Step(op.op_type, op.name, KERNELS[op.op_type], inputs, outputs, blocks, ())
        if not op.op_type.startswith("constexpr_"):
            return step
        step.run(self.constants, self.opset, None)
        return None


def _with_the_dead(steps: list[Step], inputs: Sequence[int], outputs: Sequence[int]) -> tuple[Step, ...]:
    """Each step with what dies there: what the block itself made or was given, and neither reads nor returns
    later."""
    own = {*inputs, *(output.key for step in steps for output in step.outputs)} - set(outputs)
    last: dict[int, int] = {}
    for position, step in enumerate(steps):
        for key in (_reads(step) | {output.key for output in step.outputs}) & own:
            last[key] = position
    dead: list[list[int]] = [[] for _ in steps]
    for key, position in last.items():
        dead[position].append(key)
    return tuple(
        Step(step.op, step.name, step.kernel, step.inputs, step.outputs, step.blocks, tuple(keys))
        for step, keys in zip(steps, dead, strict=True)
    )


def _walk(block: Block) -> Iterator[Step]:
    for step in block.steps:
        yield step
        for nested in step.blocks:
            yield from _walk(nested)


def _reads(step: Step) -> set[int]:
    """What a step reads, itself or in its nested blocks."""
    keys: set[int] = set()
    for key in step.inputs.values():
        keys |= {key} if isinstance(key, int) else set(key)
    for block in step.blocks:
        keys |= set(block.outputs).union(*map(_reads, block.steps))
    return keys


def _constant(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray | np.generic | bool | int | float):
        return from_numpy(np.asarray(value))
    return Labels(tuple(name if isinstance(name, str) else int(name) for name in value))


def _dtype(var: Any) -> torch.dtype | None:
    """The dtype of a tensor or scalar; None of a list, a dictionary or a string."""
    from coremltools.converters.mil.mil import types

    if types.is_list(var.sym_type) or types.is_dict(var.sym_type):
        return None
    return TORCH_DTYPES.get(types.builtin_to_string(var.dtype))
