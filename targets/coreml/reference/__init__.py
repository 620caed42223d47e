"""The Core ML reference interpreter: it reads a saved .mlpackage back and runs its operations with PyTorch.

Core ML's own runtime exists on Apple's systems only; this shows, anywhere, that the file on disk computes
what the model computes. Each operation is computed in float32 and its result rounded to the dtype that the
program states, so a float16 program is rounded once at every value; Core ML itself may round inside of an
operation, too. Quantization gives exact integers. What an operation's definition leaves open, the interpreter
refuses by name: it never guesses.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgewright.errors import TargetError, did_you_mean
from edgewright.targets.coreml.reference import (  # noqa: F401  (each enters its operations into the table)
    activation,
    control_flow,
    convolution,
    decompression,
    detection,
    elementwise,
    gather_scatter,
    layout,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resample,
    resize,
    slicing,
    tensor,
)
from edgewright.targets.coreml.reference.loading import load_function
from edgewright.targets.coreml.reference.program import Block, Builder, Environment, Observer
from edgewright.targets.coreml.reference.values import Array, State, States, from_numpy, to_numpy

__all__ = ["ReferenceModel", "States"]

InputSpec = tuple[tuple[int, ...], "np.dtype[Any]"]


class ReferenceModel:
    """A loaded package.

    `input_specs` gives the shape and dtype of each input as the program holds it, -1 where a dimension is
    flexible (an image input is the array of its pixels, channels first); `output_names` is in the program's
    order.
    """

    def __init__(
        self,
        block: Block,
        constants: Environment,
        opset: int,
        inputs: Mapping[str, tuple[int, InputSpec]],
        states: Mapping[str, tuple[int, InputSpec]],
        output_names: tuple[str, ...],
    ) -> None:
        self.input_specs = {name: spec for name, (_, spec) in inputs.items()}
        self.state_specs = {name: spec for name, (_, spec) in states.items()}
        self.output_names = output_names
        self._block, self._constants, self._opset = block, constants, opset
        self._keys = {name: key for name, (key, _) in (*inputs.items(), *states.items())}

    @classmethod
    def load(cls, mlpackage: Path) -> ReferenceModel:
        """Read a package and compute its constants.

        Raises:
            TargetError: it is no ML program, or holds operations that are refused; every one is named.
        """
        loaded = load_function(Path(mlpackage))
        builder = Builder(loaded.opset)
        block = builder.build(loaded.function)
        inputs: dict[str, tuple[int, InputSpec]] = {}
        states: dict[str, tuple[int, InputSpec]] = {}
        for name, var in loaded.function.inputs.items():
            is_state, spec = _spec(var)
            (states if is_state else inputs)[name] = (builder.key(var), spec)
        names = tuple(var.name for var in loaded.function.outputs)
        return cls(block, builder.constants, loaded.opset, inputs, states, names)

    def make_states(self) -> States:
        """New states, all zeros, to carry from run to run."""
        specs = self.state_specs.items()
        return States({name: State(from_numpy(np.zeros(shape, dtype))) for name, (shape, dtype) in specs})

    def run(self, inputs: Mapping[str, Array], states: States | None = None) -> dict[str, Array]:
        """Compute the outputs; `states` (new ones, unless given) are updated.

        A classifier's label is an array of one string or integer, and its probabilities are in the order of
        its classes.

        Raises:
            TargetError: inputs are missing, unknown or of another shape or kind; or a value leads an
            operation where MIL does not define it.
        """
        return self._run(inputs, states, None)

    def trace(self, inputs: Mapping[str, Array], states: States | None = None) -> dict[str, Array]:
        """Every value that an operation gives, by its MIL variable's name; inside of a loop, the last."""
        values: dict[str, Array] = {}

        def observe(name: str, value: Any) -> None:
            if isinstance(value, torch.Tensor):
                values[name] = to_numpy(value)

        self._run(inputs, states, observe)
        return values

    def _run(self, inputs: Mapping[str, Array], states: States | None, observe: Observer | None) -> dict[str, Array]:
        self._check_names(inputs)
        environment = dict(self._constants)
        for name, (shape, dtype) in self.input_specs.items():
            environment[self._keys[name]] = from_numpy(_fitted(name, np.asarray(inputs[name]), shape, dtype))
        for name, state in (states or self.make_states()).by_name.items():
            environment[self._keys[name]] = state
        with torch.inference_mode():
            outputs = self._block.run(environment, self._opset, observe)
        return {name: to_numpy(value) for name, value in zip(self.output_names, outputs, strict=True)}

    def _check_names(self, inputs: Mapping[str, Array]) -> None:
        for name in inputs:
            if name not in self.input_specs:
                raise TargetError("an unknown input", got=name, do=did_you_mean(name, self.input_specs))
        missing = [name for name in self.input_specs if name not in inputs]
        if missing:
            raise TargetError("inputs are missing", got=sorted(inputs), expected=list(self.input_specs))


def _spec(var: Any) -> tuple[bool, InputSpec]:
    """Whether a function's input is a state, and its shape and dtype."""
    from coremltools.converters.mil.mil import types
    from coremltools.converters.mil.mil.types.symbolic import is_symbolic

    is_state = types.is_state(var.sym_type)
    kind = var.sym_type.wrapped_type() if is_state else var.sym_type
    shape, primitive = (kind.get_shape(), kind.get_primitive()) if types.is_tensor(kind) else ((), kind)
    dtype = np.dtype(types.nptype_from_builtin(primitive))
    return is_state, (tuple(-1 if is_symbolic(size) else int(size) for size in shape), dtype)


def _fitted(name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The array in the program's dtype, if it is of the same kind and shape."""
    if len(array.shape) != len(shape) or any(
        want not in (-1, got) for got, want in zip(array.shape, shape, strict=True)
    ):
        raise TargetError("an input has another shape", got=array.shape, expected=shape, where=name)
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise TargetError("an input has another kind of dtype", got=array.dtype, expected=dtype, where=name)
    fitted = array.astype(dtype, copy=False)
    if dtype.kind in "iu" and not np.array_equal(fitted, array):
        raise TargetError("an input holds numbers that its dtype cannot", expected=dtype, where=name)
    return fitted
