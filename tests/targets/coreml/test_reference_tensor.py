"""Operations on whole tensors, against coremltools' value inference and numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_programs import assert_close, inferred, mb, normal, run

from edgewright.errors import TargetError
from edgewright.targets.coreml.reference.tensor import topk

X = normal(3, 4, 5)

CASES: dict[str, Any] = {
    "band_part": lambda x: mb.band_part(x=x, lower=1, upper=0),
    "band_part above": lambda x: mb.band_part(x=x, lower=0, upper=-1),
    "cumsum": lambda x: mb.cumsum(x=x, axis=1),
    "cumsum reversed": lambda x: mb.cumsum(x=x, axis=2, reverse=True),
    "non_zero": lambda x: mb.non_zero(x=mb.relu(x=x)),
    "pad with a constant": lambda x: mb.pad(x=x, pad=[1, 0, 2, 3], mode="constant", constant_val=1.5),
    "pad by reflection": lambda x: mb.pad(x=x, pad=[2, 1, 1, 3], mode="reflect"),
    "pad by replication": lambda x: mb.pad(x=x, pad=[3, 0, 1, 2], mode="replicate"),
    "tile": lambda x: mb.tile(x=x, reps=[2, 1, 3]),
    "argsort": lambda x: mb.argsort(x=x, axis=1),
    "argsort ascending": lambda x: mb.argsort(x=x, axis=-1, ascending=True),
    "topk": lambda x: mb.topk(x=x, k=2, axis=1),
    "topk ascending": lambda x: mb.topk(x=x, k=3, axis=-1, ascending=True),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("opset", ["iOS15", "iOS18"])
def test_tensor_operation_equals_coremltools(name: str, opset: str, tmp_path: Path) -> None:
    build = CASES[name]
    assert_close(run(build, {"x": X}, tmp_path, opset), inferred(build, {"x": X}, opset))


def test_topk_gives_values_alone_and_small_indices(tmp_path: Path) -> None:
    def build(x: object) -> object:
        values = mb.topk(x=x, k=2, axis=1, return_indices=False)
        _, indices = mb.topk(x=x, k=2, axis=1, output_indices_dtype="uint16")
        return [values, mb.cast(x=indices, dtype="int32")]

    order = np.argsort(-X, axis=1)[:, :2]
    assert_close(run(build, {"x": X}, tmp_path), [np.take_along_axis(X, order, 1), order], 0)


def test_topk_of_minus_one_takes_all() -> None:
    """The function itself: coremltools 9 states it, and fails to save its shape."""
    values = topk(torch.from_numpy(X), -1, 1, False, return_indices=False)
    np.testing.assert_array_equal(values, np.sort(X, 1)[:, ::-1])


@pytest.mark.parametrize("reverse", [True, False])
def test_exclusive_cumsum_sums_what_comes_before(reverse: bool, tmp_path: Path) -> None:
    """By numpy: coremltools' own value inference of `exclusive` fails."""
    x = X[:, ::-1] if reverse else X
    expected = np.cumsum(x, 1) - x
    expected = expected[:, ::-1] if reverse else expected

    def build(x: object) -> object:
        return mb.cumsum(x=x, axis=1, exclusive=True, reverse=reverse)

    assert_close(run(build, {"x": X}, tmp_path), [expected])


def test_integer_cumsum_stays_integer(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.int32).reshape(2, 3)
    (actual,) = run(lambda x: mb.cumsum(x=x, axis=1), {"x": x}, tmp_path)
    assert actual.dtype == np.int32
    np.testing.assert_array_equal(actual, np.cumsum(x, 1))


def test_fill_takes_its_shape_from_the_program(tmp_path: Path) -> None:
    def build(x: object) -> object:
        return [mb.fill(shape=mb.shape(x=x), value=2.5), mb.fill_like(ref_tensor=x, value=np.int32(3))]

    filled, like = run(build, {"x": X}, tmp_path)
    np.testing.assert_array_equal(filled, np.full(X.shape, 2.5))
    np.testing.assert_array_equal(like, np.full(X.shape, 3))
    assert like.dtype == np.int32


@pytest.mark.parametrize(
    ("start", "end", "step"), [(0, 7, 2), (5, -2, -3), (np.float32(0.5), np.float32(2.1), np.float32(0.5))]
)
def test_range_equals_numpy_arange(start: Any, end: Any, step: Any, tmp_path: Path) -> None:
    inputs = {"end": np.array([end], np.asarray(end).dtype)}
    inputs = {"end": inputs["end"].astype(np.int32)} if isinstance(end, int) else inputs

    def build(end: object) -> object:
        return mb.range_1d(start=start, end=mb.squeeze(x=end), step=step)

    assert_close(run(build, inputs, tmp_path), [np.arange(start, end, step)])


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot_marks_along_an_axis(axis: int, tmp_path: Path) -> None:
    indices = np.array([[0, 2], [1, 1]], np.int32)
    expected = np.moveaxis(np.where(indices[..., None] == np.arange(3), 2.0, -1.0), -1, axis)

    def build(indices: object) -> object:
        return mb.one_hot(indices=indices, one_hot_vector_size=3, axis=axis, on_value=2.0, off_value=-1.0)

    assert_close(run(build, {"indices": indices}, tmp_path), [expected], 0)


def test_one_hot_of_an_index_beyond_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="does not run one_hot: an index lies outside of a vector of 3"):
        run(
            lambda x: mb.one_hot(indices=x, one_hot_vector_size=3),
            {"x": np.array([3], np.int32)},
            tmp_path,
        )
