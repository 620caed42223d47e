"""What an .mlpackage holds: its MIL operations, with compressed constants at their stored size."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.targets.accounting import (
    Step,
    account,
    convolution_macs,
    matmul_macs,
    transposed_convolution_macs,
)
from edgewright.targets.base import Inspection

PRODUCTS = {"conv", "conv_transpose", "linear", "matmul"}


def inspect_mlpackage(path: Path) -> Inspection:
    """Read a package, ours or not. No runtime is asked: Core ML tells its placement on Apple devices only."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, spec.specificationVersion, model.weights_dir)
    function = program.functions["main"]
    constants: dict[str, int] = {}
    by_dtype: dict[str, int] = {}
    sizes = {name: _bytes(variable) for name, variable in function.inputs.items()}
    steps = []
    for operation in function.operations:
        outputs = operation.outputs
        if operation.op_type == "const":
            _store(outputs[0], constants, by_dtype)
            continue
        if operation.op_type.startswith("constexpr_"):
            constants[outputs[0].name] = sum(
                _store(value, constants, by_dtype)
                for value in _variables(operation)
                if value.op is None or value.op.op_type == "const"
            )
            continue
        reads = tuple(value.name for value in _variables(operation))
        sizes |= {output.name: _bytes(output) for output in outputs}
        steps.append(
            Step(
                operation.name,
                operation.op_type,
                _compute(operation),
                _macs(operation),
                reads,
                tuple(output.name for output in outputs),
            )
        )
    return account(f"Core ML specification {spec.specificationVersion}", steps, sizes, constants, by_dtype)


def _variables(operation: Any) -> list[Any]:
    found: list[Any] = []
    for value in operation.inputs.values():
        found += value if isinstance(value, list | tuple) else [value]
    return [value for value in found if value is not None]


def _store(variable: Any, constants: dict[str, int], by_dtype: dict[str, int]) -> int:
    """Count a constant once; scalars and strings are settings, not weights."""
    if variable.name in constants:
        return 0
    value = np.asarray(variable.val) if variable.val is not None else None
    if value is None or value.dtype.kind not in "fiub" or value.ndim == 0:
        return 0
    constants[variable.name] = value.nbytes
    by_dtype[value.dtype.name] = by_dtype.get(value.dtype.name, 0) + value.nbytes
    return value.nbytes


def _shape(variable: Any) -> list[int]:
    return [int(size) if isinstance(size, int | np.integer) else 1 for size in variable.shape]


def _dtype(variable: Any) -> str:
    return (
        {"fp32": "float32", "fp16": "float16"}.get(name := variable.dtype.__name__, name) if variable.dtype else "none"
    )


def _bytes(variable: Any) -> int:
    name = _dtype(variable)
    return prod(_shape(variable)) * (np.dtype(name).itemsize if name not in ("none", "str") else 0)


def _compute(operation: Any) -> str:
    """Integer is a product between `dequantize` and `quantize`: the form that newer neural engines run in 8 bits."""
    if operation.op_type not in PRODUCTS:
        return _dtype(operation.outputs[0])
    data, weight = _operands(operation)
    if not (_from(data, ("dequantize",)) and _from(weight, ("dequantize", "constexpr_affine_dequantize"))):
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
