"""What an .mlpackage holds: its MIL operations, with compressed constants at their stored size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import TargetError
from edgewright.targets.accounting import (
    Gathered,
    Step,
    account,
    attention_macs,
    convolution_macs,
    matmul_macs,
    transposed_convolution_macs,
)
from edgewright.targets.base import Inspection
from edgewright.targets.coreml.network import NETWORKS, inspect_network
from edgewright.targets.findings import Reader, TensorFact

PRODUCTS = {"conv", "conv_transpose", "linear", "matmul"}
STORED_WEIGHTS = ("constexpr_affine_dequantize", "constexpr_blockwise_shift_scale")
ATTENTION = "scaled_dot_product_attention"
PACKED = {f"{sign}int{bits}": bits for sign in ("", "u") for bits in (1, 2, 3, 4, 6)}


# What stands in the specification -> the first iOS that reads it.
SYSTEMS = {1: "11", 2: "11.2", 3: "12", 4: "13", 5: "14", 6: "15", 7: "16", 8: "17", 9: "18", 10: "26"}
SOURCE = "coremltools: specification version of each iOS"
RECURRENT = {"lstm", "gru", "rnn", "einsum"}


def inspect_mlpackage(path: Path) -> Inspection:
    """Read a package or an .mlmodel, ours or not. No runtime is asked: Core ML tells its placement on Apple devices
    only.

    Raises:
        TargetError: a model of another kind than an ML program or a neural network.
    """
    from coremltools.models.utils import load_spec

    spec = load_spec(str(path))
    kind = spec.WhichOneof("Type")
    if kind == "mlProgram":
        found = _inspect_program(path, spec)
    elif kind in NETWORKS:
        found = inspect_network(spec)
    else:
        raise TargetError(
            "edgewright inspects ML programs and neural networks",
            got=f"a Core ML model of the kind {kind or 'unknown'}",
            where=path,
        )
    version = spec.specificationVersion
    system = SYSTEMS.get(version, "")
    reader = Reader("iOS", system, f"specification {version}", SOURCE)
    return replace(found, versions={"specification": str(version), **found.versions}, readers=(reader,))


def _inspect_program(path: Path, spec: Any) -> Inspection:
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    program = load(spec, spec.specificationVersion, model.weights_dir)
    name = spec.description.defaultFunctionName or "main"
    name = name if name in program.functions else next(iter(program.functions))
    function = program.functions[name]
    contents = _Contents()
    contents.read(function, function.inputs.values(), "")
    notes = list(contents.notes)
    if len(program.functions) > 1:
        others = ", ".join(sorted(set(program.functions) - {name}))
        notes.append(f"the function {name} is shown; the file also has {others}")
    hidden = sorted({step.op for step in contents.steps if step.op in RECURRENT})
    if hidden:
        notes.append(f"multiply-accumulates inside of {', '.join(hidden)} are not counted")
    found = account(
        f"Core ML specification {spec.specificationVersion}",
        contents.steps,
        contents.sizes,
        contents.constants,
        contents.by_dtype,
        None,
        contents.tensors,
    )
    return replace(found, versions={"opset": str(function.opset_version.name)}, notes=tuple(notes))


@dataclass
class _Contents(Gathered):
    """What is gathered on the way through a function and the blocks of its cond and while_loop operations."""

    def read(self, block: Any, inputs: Iterable[Any], prefix: str) -> None:
        """Add a block's operations; those of inner blocks stand before their owner."""
        for variable in inputs:
            self._value(variable)
        for operation in block.operations:
            if operation.op_type == "const":
                self._store(operation.outputs[0])
            elif operation.op_type.startswith("constexpr_"):
                self._compressed(operation)
            else:
                self._step(operation, prefix)

    def _step(self, operation: Any, prefix: str) -> None:
        name = prefix + operation.name
        reads = [value.name for value in _variables(operation)]
        for place, block in enumerate(operation.blocks):
            self.read(block, block.inputs, f"{name}.{place}/")
            self.notes.append(f"block {place} of {name} is counted once")
            reads += [value.name for value in block.outputs]
        for output in operation.outputs:
            self._value(output)
        writes = tuple(output.name for output in operation.outputs)
        permutation: tuple[int, ...] = ()
        if operation.op_type == "transpose" and operation.inputs["perm"].val is not None:
            perm = [int(axis) for axis in operation.inputs["perm"].val]
            permutation = tuple(axis % len(perm) for axis in perm)
        self.steps.append(
            Step(name, operation.op_type, _compute(operation), _macs(operation), tuple(reads), writes, permutation)
        )

    def _value(self, variable: Any) -> None:
        stated = _stated_shape(variable)
        if -1 in stated and not any(note.startswith("dynamic") for note in self.notes):
            self.notes.append("dynamic dimensions count as 1")
        self.sizes[variable.name] = _bytes(variable)
        self.tensors[variable.name] = TensorFact(variable.name, _dtype(variable), stated, self.sizes[variable.name])

    def _compressed(self, operation: Any) -> None:
        """A constant that is stored compressed: at the size of what it is made from."""
        result = operation.outputs[0]
        parts = [
            value
            for value in _variables(operation)
            if value.op is None or value.op.op_type == "const" or value.op.op_type.startswith("constexpr_")
        ]
        for part in parts:
            self._store(part)
        # Shown as the whole: the loader numbers the parts in an order that changes.
        facts = [self.tensors.pop(part.name) for part in parts if part.name in self.tensors]
        dtype = max(facts, key=lambda fact: fact.bytes).dtype if facts else _dtype(result)
        size = sum(fact.bytes for fact in facts)
        self.constants[result.name] = size
        self.tensors[result.name] = TensorFact(result.name, dtype, _stated_shape(result), size)

    def _store(self, variable: Any) -> int:
        """Count a constant once; scalars and strings are settings, not weights. A packed dtype counts packed."""
        if variable.name in self.constants:
            return 0
        value = np.asarray(variable.val) if variable.val is not None else None
        if value is None or value.dtype.kind not in "fiub" or value.ndim == 0:
            return 0
        stated = _dtype(variable)
        bits = PACKED.get(stated, 8 * value.dtype.itemsize)
        size, dtype = (value.size * bits + 7) // 8, stated if stated in PACKED else value.dtype.name
        dtype = _packed_indices(variable) or dtype
        self.constants[variable.name] = size
        self.by_dtype[dtype] = self.by_dtype.get(dtype, 0) + size
        self.tensors[variable.name] = TensorFact(variable.name, dtype, tuple(value.shape), size)
        return size


def _packed_indices(variable: Any) -> str:
    """The dtype of a palette's indices where the file has them as bytes: before iOS 18."""
    for reader in variable.child_ops:
        packs = reader.op_type == "constexpr_lut_to_dense" and "shape" in reader.inputs
        if packs and reader.inputs["indices"] is variable:
            return f"uint{(reader.inputs['lut'].shape[0] - 1).bit_length()}"
    return ""


def _variables(operation: Any) -> list[Any]:
    found: list[Any] = []
    for value in operation.inputs.values():
        found += value if isinstance(value, list | tuple) else [value]
    return [value for value in found if value is not None]


def _stated_shape(variable: Any) -> tuple[int, ...]:
    shape = getattr(variable, "shape", None) or ()
    return tuple(int(size) if isinstance(size, int | np.integer) else -1 for size in shape)


def _shape(variable: Any) -> list[int]:
    return [max(size, 1) if size < 0 else size for size in _stated_shape(variable)]


def _dtype(variable: Any) -> str:
    """The dtype of a tensor ("none" for strings, dictionaries, lists and states)."""
    from coremltools.converters.mil.mil.types import builtin_to_string, is_scalar

    kind = getattr(variable, "dtype", None)
    if kind is None or not is_scalar(kind):
        return "none"
    return {"fp32": "float32", "fp16": "float16"}.get(name := str(builtin_to_string(kind)), name)


def _bytes(variable: Any) -> int:
    name = _dtype(variable)
    if name in PACKED:
        return (prod(_shape(variable)) * PACKED[name] + 7) // 8
    try:
        return prod(_shape(variable)) * np.dtype(name).itemsize
    except TypeError:  # no tensor
        return 0


def _compute(operation: Any) -> str:
    """Integer is a product between `dequantize` and `quantize`: the form that newer neural engines run in 8 bits."""
    if operation.op_type not in PRODUCTS:
        return _dtype(operation.outputs[0])
    data, weight = _operands(operation)
    if not (_from(data, ("dequantize",)) and _from(weight, ("dequantize", *STORED_WEIGHTS))):
        return _dtype(operation.outputs[0])
    readers = operation.outputs[0].child_ops
    if len(readers) == 1 and readers[0].op_type in ("relu", "relu6", "clip", "add"):
        readers = readers[0].outputs[0].child_ops
    return "int8" if any(reader.op_type == "quantize" for reader in readers) else _dtype(operation.outputs[0])


def _from(variable: Any, kinds: tuple[str, ...]) -> bool:
    while variable.op is not None and variable.op.op_type in ("transpose", "reshape", "expand_dims"):
        variable = variable.op.inputs["x"]
    return variable.op is not None and variable.op.op_type in kinds


def _operands(operation: Any) -> tuple[Any, Any]:
    return operation.inputs["x"], operation.inputs["y" if operation.op_type == "matmul" else "weight"]


def _macs(operation: Any) -> int:
    if operation.op_type == ATTENTION:
        query, key, value = (_shape(operation.inputs[name]) for name in ("query", "key", "value"))
        return attention_macs(query, key, value)
    if operation.op_type not in PRODUCTS:
        return 0
    data, weight = _operands(operation)
    output = _shape(operation.outputs[0])
    if operation.op_type == "conv":
        return convolution_macs(output, _shape(weight))
    if operation.op_type == "conv_transpose":
        return transposed_convolution_macs(_shape(data), _shape(weight))
    transposed = operation.op_type == "matmul" and bool(operation.inputs["transpose_x"].val)
    return matmul_macs(_shape(data), output, transposed=transposed)
