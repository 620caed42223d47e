"""Elementwise operations and activations, against coremltools' value inference and numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from reference_programs import Array, assert_close, inferred, mb, normal, run

from edgewright.errors import TargetError

X, Y = normal(2, 3, 4), normal(2, 3, 4, seed=1)
POSITIVE = np.abs(X) + np.float32(0.1)
WITHIN = np.clip(X / 4, -0.9, 0.9)
INTEGERS = np.array([[-7, 3, 0], [5, -2, 9]], np.int32)
DIVISORS = np.array([[2, -2, 5], [-3, 4, 2]], np.int32)
HALVES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49], np.float32)

UNARY = {
    "abs": X, "acos": WITHIN, "asin": WITHIN, "atan": X, "atanh": WITHIN, "ceil": X, "cos": X, "cosh": X,
    "erf": X, "exp": X, "exp2": X, "floor": X, "identity": X, "inverse": POSITIVE, "log": POSITIVE, "relu": X,
    "relu6": 4 * X, "round": HALVES, "rsqrt": POSITIVE, "sigmoid": X, "sign": X, "sin": X, "sinh": X,
    "softplus": X, "softsign": X, "sqrt": POSITIVE, "square": X, "tan": WITHIN, "tanh": X,
}  # fmt: skip

BINARY = (
    "add", "equal", "floor_div", "greater", "greater_equal", "less", "less_equal", "maximum", "minimum",
    "mod", "mul", "not_equal", "real_div", "sub",
)  # fmt: skip

WITH_PARAMETERS = {
    "clip": lambda x: mb.clip(x=x, alpha=-0.5, beta=0.75),
    "threshold": lambda x: mb.threshold(x=x, alpha=0.25),
    "elu": lambda x: mb.elu(x=x, alpha=0.7),
    "leaky_relu": lambda x: mb.leaky_relu(x=x, alpha=0.2),
    "clamped_relu": lambda x: mb.clamped_relu(x=x, alpha=0.3, beta=0.6),
    "linear_activation": lambda x: mb.linear_activation(x=x, alpha=1.5, beta=-0.25),
    "scaled_tanh": lambda x: mb.scaled_tanh(x=x, alpha=1.2, beta=0.4),
    "sigmoid_hard": lambda x: mb.sigmoid_hard(x=x, alpha=0.3, beta=0.4),
    "gelu": lambda x: mb.gelu(x=x, mode="EXACT"),
    "gelu with tanh": lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
    "gelu with sigmoid": lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
    "softmax": lambda x: mb.softmax(x=x, axis=1),
    "prelu": lambda x: mb.prelu(x=x, alpha=np.float32([0.1, 0.1, 0.1])),
    "softplus_parametric": lambda x: mb.softplus_parametric(
        x=x, alpha=np.float32([0.5, 1.0, 2.0]), beta=np.float32([2.0, 0.5, 1.0])
    ),
    "inverse with epsilon": lambda x: mb.inverse(x=x, epsilon=0.5),
    "log with epsilon": lambda x: mb.log(x=mb.abs(x=x), epsilon=0.5),
    "rsqrt with epsilon": lambda x: mb.rsqrt(x=mb.abs(x=x), epsilon=0.5),
    "cast to integers": lambda x: mb.cast(x=x, dtype="int32"),
    "pow": lambda x: mb.pow(x=mb.abs(x=x), y=np.float32(1.7)),
    "scalar operand": lambda x: mb.mul(x=np.float32(3.0), y=x),
    "broadcast operand": lambda x: mb.sub(x=x, y=np.float32([[1.0], [2.0], [3.0]])),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary_operation_equals_coremltools(name: str, tmp_path: Path) -> None:
    def build(x: object) -> object:
        return getattr(mb, name)(x=x)

    assert_close(run(build, {"x": UNARY[name]}, tmp_path), inferred(build, {"x": UNARY[name]}))


@pytest.mark.parametrize("name", BINARY)
def test_binary_operation_equals_coremltools(name: str, tmp_path: Path) -> None:
    inputs = {"x": np.round(X, 1), "y": np.where(np.abs(Y) < 0.5, np.round(X, 1) + (X == 0), Y)}

    def build(x: object, y: object) -> object:
        return getattr(mb, name)(x=x, y=y)

    assert_close(run(build, inputs, tmp_path), inferred(build, inputs))


@pytest.mark.parametrize("name", [name for name in BINARY if name != "real_div"])
def test_integer_operation_equals_coremltools(name: str, tmp_path: Path) -> None:
    inputs = {"x": INTEGERS, "y": DIVISORS}

    def build(x: object, y: object) -> object:
        return getattr(mb, name)(x=x, y=y)

    assert_close(run(build, inputs, tmp_path), inferred(build, inputs), 0)


@pytest.mark.parametrize("name", ["abs", "sign", "square"])
def test_unary_operation_keeps_integers(name: str, tmp_path: Path) -> None:
    def build(x: object) -> object:
        return getattr(mb, name)(x=x)

    (actual,) = run(build, {"x": INTEGERS}, tmp_path)
    assert actual.dtype == np.int32
    assert_close([actual], inferred(build, {"x": INTEGERS}), 0)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("opset", ["iOS15", "iOS18"])
def test_operation_with_parameters_equals_coremltools(name: str, opset: str, tmp_path: Path) -> None:
    build = WITH_PARAMETERS[name]
    assert_close(run(build, {"x": X}, tmp_path, opset), inferred(build, {"x": X}, opset))


def test_prelu_takes_a_slope_for_each_channel(tmp_path: Path) -> None:
    x, slopes = normal(2, 3, 4, 5), np.float32([0.1, 0.5, 2.0])
    expected = torch.nn.functional.prelu(torch.from_numpy(x), torch.from_numpy(slopes))
    assert_close(run(lambda x: mb.prelu(x=x, alpha=slopes), {"x": x}, tmp_path), [expected.numpy()])


def test_silu_and_thresholded_relu_follow_their_definitions(tmp_path: Path) -> None:
    x = np.float32([-1.0, 0.4, 0.5, 0.6])
    actual = run(lambda x: [mb.silu(x=x), mb.thresholded_relu(x=x, alpha=0.5)], {"x": x}, tmp_path)
    assert_close(actual, [x / (1 + np.exp(-x)), np.float32([0.0, 0.0, 0.5, 0.6])])


def test_clamped_relu_bounds_both_of_its_sides(tmp_path: Path) -> None:
    x = np.float32([-2.0, -0.1, 0.5, 3.0])
    actual = run(lambda x: mb.clamped_relu(x=x, alpha=-2.0, beta=1.5), {"x": x}, tmp_path)
    assert_close(actual, [np.float32([1.5, 0.2, 0.5, 1.5])])


def test_logical_operations_follow_their_truth_tables(tmp_path: Path) -> None:
    inputs = {"x": np.float32([0, 0, 1, 1]), "y": np.float32([0, 1, 0, 1])}

    def build(x: object, y: object) -> object:
        x, y = mb.cast(x=x, dtype="bool"), mb.cast(x=y, dtype="bool")
        return [
            mb.logical_and(x=x, y=y),
            mb.logical_or(x=x, y=y),
            mb.logical_xor(x=x, y=y),
            mb.logical_not(x=x),
        ]

    expected = [np.float32(row) for row in ([0, 0, 0, 1], [0, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0])]
    assert_close(run(build, inputs, tmp_path), expected, 0)


def test_select_equals_numpy_where(tmp_path: Path) -> None:
    def build(x: object, y: object) -> object:
        return mb.select(cond=mb.greater(x=x, y=np.float32(0.0)), a=x, b=y)

    assert_close(run(build, {"x": X, "y": Y}, tmp_path), [np.where(X > 0, X, Y)], 0)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_cast_cuts_toward_zero(dtype: str, tmp_path: Path) -> None:
    x = np.float32([0.0, 1.9, 100.2, 126.99])
    (actual,) = run(lambda x: mb.cast(x=mb.cast(x=x, dtype=dtype), dtype="int32"), {"x": x}, tmp_path)
    np.testing.assert_array_equal(actual, [0, 1, 100, 126])


def test_cast_of_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"(?s)does not run cast: a value does not fit int8.*where: cast_0"):
        run(
            lambda x: mb.cast(x=mb.cast(x=x, dtype="int8"), dtype="int32"),
            {"x": np.float32([128.0])},
            tmp_path,
        )


@pytest.mark.parametrize("opset", ["iOS16", "iOS18"])
@pytest.mark.parametrize("name", ["exp", "tanh", "add", "mul", "real_div"])
def test_float16_operation_is_float32_rounded_once(name: str, opset: str, tmp_path: Path) -> None:
    x, y = X.astype(np.float16), (Y + 3).astype(np.float16)
    numpy: dict[str, Array] = {
        "exp": np.exp(x.astype(np.float32)),
        "tanh": np.tanh(x.astype(np.float32)),
        "add": x.astype(np.float32) + y.astype(np.float32),
        "mul": x.astype(np.float32) * y.astype(np.float32),
        "real_div": x.astype(np.float32) / y.astype(np.float32),
    }

    def build(x: object, y: object) -> object:
        return getattr(mb, name)(x=x) if name in ("exp", "tanh") else getattr(mb, name)(x=x, y=y)

    (actual,) = run(build, {"x": x, "y": y}, tmp_path, opset)
    assert actual.dtype == np.float16
    np.testing.assert_array_equal(actual, numpy[name].astype(np.float16))


def test_quotient_of_integers_is_an_integer(tmp_path: Path) -> None:
    """Apple's expected values for integers in an ML program."""
    inputs = {"x": np.array([[10, 20, 30], [40, 50, 60]], np.int32)}
    y = np.array([[11, 12, 13], [14, 15, 16]], np.int32)
    (actual,) = run(lambda x: mb.real_div(x=x, y=y), inputs, tmp_path)
    np.testing.assert_array_equal(actual, [[0, 1, 2], [2, 3, 3]])
    assert actual.dtype == np.int32


def test_negative_quotient_of_integers_with_a_remainder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="does not run real_div: a negative quotient of integers"):
        run(lambda x: mb.real_div(x=x, y=np.int32(2)), {"x": INTEGERS}, tmp_path)
