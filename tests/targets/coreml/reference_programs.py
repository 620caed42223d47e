"""Small MIL programs for the tests of the reference interpreter: saved as packages, or inferred by
coremltools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil.converter import mil_convert
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, types

from edgewright.targets.coreml.reference import ReferenceModel

Array = np.ndarray[Any, Any]
Build = Callable[..., Any]

SUPPORTED_IO = ct.PassPipeline(["mil_backend::adjust_io_to_supported_types"], "supported inputs and outputs")


def save(
    build: Build,
    inputs: Mapping[str, Array],
    folder: Path,
    opset: str = "iOS18",
    states: Mapping[str, Array] | None = None,
) -> Path:
    """Save the program whose outputs `build` gives, called with a variable for each input and state."""
    placeholders = {name: mb.placeholder(each.shape, _type(each)) for name, each in inputs.items()}
    for name, each in (states or {}).items():
        placeholders[name] = mb.state_tensor_placeholder(each.shape, _type(each))
    target = ct.target[opset]
    with Function(placeholders, opset_version=target) as function:
        function.set_outputs(_listed(build(**function.inputs)))
    program = Program()
    program.add_function("main", function)
    model = mil_convert(
        program,
        convert_from="milinternal",
        convert_to="mlprogram",
        compute_units=ct.ComputeUnit.CPU_ONLY,
        model_deserialization_only=False,
        specification_version=target,
        skip_model_load=True,
        pass_pipeline=SUPPORTED_IO,
    )
    path = folder / "model.mlpackage"
    model.save(str(path))
    return path


def run(build: Build, inputs: Mapping[str, Array], folder: Path, opset: str = "iOS18") -> list[Array]:
    """The outputs of the saved program, from the reference interpreter."""
    return list(ReferenceModel.load(save(build, inputs, folder, opset)).run(inputs).values())


def inferred(build: Build, inputs: Mapping[str, Array], opset: str = "iOS18") -> list[Array]:
    """The outputs by coremltools' own value inference, on constants."""
    with Function({"unused": mb.placeholder((1,))}, opset_version=ct.target[opset]):
        outputs = _listed(build(**{name: mb.const(val=each) for name, each in inputs.items()}))
    assert all(output.val is not None for output in outputs), "coremltools infers no value"
    return [np.asarray(output.val) for output in outputs]


def assert_close(actual: Sequence[Array], expected: Sequence[Array], tolerance: float = 1e-5) -> None:
    """Same number, same shapes (a scalar output is one of one element), and values within the tolerance."""
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        other = np.asarray(other)
        assert one.shape in (other.shape, other.shape or (1,)), f"{one.shape} against {other.shape}"
        np.testing.assert_allclose(one, other.reshape(one.shape), rtol=tolerance, atol=tolerance)


def sqnr_db(actual: Array, expected: Array) -> float:
    signal, noise = expected.astype(np.float64), actual.astype(np.float64) - expected.astype(np.float64)
    return float(10 * np.log10((signal**2).sum() / max((noise**2).sum(), 1e-300)))


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _type(array: Array) -> Any:
    return types.numpy_type_to_builtin_type(array.dtype)


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]
