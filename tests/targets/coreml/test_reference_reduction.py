"""Reductions, against coremltools' value inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference_programs import assert_close, inferred, mb, normal, run

from edgewright.errors import TargetError

X = normal(2, 3, 4)
INTEGERS = np.arange(-11, 13, dtype=np.int32).reshape(2, 3, 4)

NAMES = (
    "reduce_l1_norm", "reduce_l2_norm", "reduce_log_sum", "reduce_log_sum_exp", "reduce_max", "reduce_mean",
    "reduce_min", "reduce_prod", "reduce_sum", "reduce_sum_square",
)  # fmt: skip


@pytest.mark.parametrize("axes", [[1], [0, -1], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("keep_dims", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_reduction_equals_coremltools(name: str, keep_dims: bool, axes: list[int], tmp_path: Path) -> None:
    x = np.abs(X) if name == "reduce_log_sum" else X

    def build(x: object) -> object:
        return getattr(mb, name)(x=x, axes=axes, keep_dims=keep_dims)

    assert_close(run(build, {"x": x}, tmp_path), inferred(build, {"x": x}))


@pytest.mark.parametrize("name", ["reduce_max", "reduce_mean", "reduce_min", "reduce_sum", "reduce_l1_norm"])
def test_integer_reduction_equals_coremltools(name: str, tmp_path: Path) -> None:
    def build(x: object) -> object:
        return getattr(mb, name)(x=x, axes=[0, 2])

    (actual,) = run(build, {"x": INTEGERS}, tmp_path)
    assert actual.dtype == np.int32
    assert_close([actual], inferred(build, {"x": INTEGERS}), 0)


@pytest.mark.parametrize("opset", ["iOS15", "iOS17"])
@pytest.mark.parametrize("keep_dims", [True, False])
@pytest.mark.parametrize("name", ["reduce_argmax", "reduce_argmin"])
def test_arg_reduction_equals_coremltools(name: str, keep_dims: bool, opset: str, tmp_path: Path) -> None:
    def build(x: object) -> object:
        return getattr(mb, name)(x=x, axis=1, keep_dims=keep_dims)

    (actual,) = run(build, {"x": X}, tmp_path, opset)
    assert actual.dtype == np.int32
    assert_close([actual], inferred(build, {"x": X}, opset), 0)


def test_arg_reduction_gives_small_integers(tmp_path: Path) -> None:
    def build(x: object) -> object:
        return mb.cast(x=mb.reduce_argmax(x=x, axis=-1, output_dtype="uint16"), dtype="int32")

    np.testing.assert_array_equal(run(build, {"x": X}, tmp_path)[0], X.argmax(-1))


def test_reduction_without_axes_takes_all(tmp_path: Path) -> None:
    assert_close(run(lambda x: mb.reduce_sum(x=x), {"x": X}, tmp_path), [X.sum()])


@pytest.mark.parametrize("name", NAMES)
def test_reduction_of_no_axes_is_of_each_element_alone(name: str, tmp_path: Path) -> None:
    """By numpy, whose empty tuple of axes coremltools' value inference hands over."""
    elementwise = {
        "reduce_l1_norm": np.abs,
        "reduce_l2_norm": np.abs,
        "reduce_log_sum": np.log,
        "reduce_sum_square": np.square,
    }
    x = np.abs(X) if name == "reduce_log_sum" else X
    actual = run(lambda x: getattr(mb, name)(x=x, axes=np.zeros(0, np.int32)), {"x": x}, tmp_path)
    assert_close(actual, [elementwise.get(name, np.positive)(x)])


def test_float16_mean_is_rounded_once(tmp_path: Path) -> None:
    x = (X * 100).astype(np.float16)
    (actual,) = run(lambda x: mb.reduce_mean(x=x, axes=[1, 2]), {"x": x}, tmp_path)
    expected = x.astype(np.float64).mean((1, 2)).astype(np.float16)
    np.testing.assert_array_equal(actual, expected)


def test_logarithm_of_integers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"reduce_log_sum_exp .*no stated rounding"):
        run(lambda x: mb.reduce_log_sum_exp(x=x, axes=[1]), {"x": INTEGERS}, tmp_path)
