"""Gathers and scatters, against coremltools' value inference, numpy and loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_programs import Array, assert_close, inferred, mb, normal, run

from edgewright.errors import TargetError

X = normal(3, 4, 5)
MODES: dict[str, Any] = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "sub": lambda old, new: old - new,
    "mul": lambda old, new: old * new,
    "div": lambda old, new: old / new,
    "max": max,
    "min": min,
}


@pytest.mark.parametrize("opset", ["iOS15", "iOS16", "iOS17"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_equals_coremltools(axis: int, opset: str, tmp_path: Path) -> None:
    inputs = {"x": X, "indices": np.array([[2, 0], [1, 1]], np.int32)}

    def build(x: object, indices: object) -> object:
        return mb.gather(x=x, indices=indices, axis=axis)

    assert_close(run(build, inputs, tmp_path, opset), inferred(build, inputs, opset), 0)


def test_gather_goes_along_batches(tmp_path: Path) -> None:
    inputs = {"x": X, "indices": np.array([[3, 0], [1, 1], [2, 0]], np.int32)}

    def build(x: object, indices: object) -> object:
        return mb.gather(x=x, indices=indices, axis=1, batch_dims=1)

    assert_close(run(build, inputs, tmp_path), inferred(build, inputs), 0)


def test_gather_of_one_index_drops_the_axis(tmp_path: Path) -> None:
    assert_close(run(lambda x: mb.gather(x=x, indices=np.int32(2), axis=1), {"x": X}, tmp_path), [X[:, 2]], 0)


def test_negative_index_counts_from_the_end_before_ios17(tmp_path: Path) -> None:
    inputs = {"x": X, "indices": np.array([-1, 0], np.int32)}

    def build(x: object, indices: object) -> object:
        return mb.gather(x=x, indices=indices, axis=1)

    assert_close(run(build, inputs, tmp_path, "iOS16"), [X[:, [-1, 0]]], 0)
    with pytest.raises(TargetError, match="does not run gather: an index lies outside of a dimension of 4"):
        run(build, inputs, tmp_path, "iOS17")


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_along_axis_equals_coremltools(axis: int, tmp_path: Path) -> None:
    shape = list(X.shape)
    shape[axis] = 2
    inputs = {"x": X, "indices": np.random.default_rng(0).integers(0, 3, shape).astype(np.int32)}

    def build(x: object, indices: object) -> object:
        return mb.gather_along_axis(x=x, indices=indices, axis=axis)

    assert_close(run(build, inputs, tmp_path), inferred(build, inputs), 0)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gather_nd_follows_its_definition(depth: int, tmp_path: Path) -> None:
    indices = np.random.default_rng(0).integers(0, 3, (2, 2, depth)).astype(np.int32)
    expected = np.stack([np.stack([X[tuple(each)] for each in row]) for row in indices])
    actual = run(lambda x, i: mb.gather_nd(x=x, indices=i), {"x": X, "i": indices}, tmp_path)
    assert_close(actual, [expected], 0)


def test_gather_nd_goes_along_batches(tmp_path: Path) -> None:
    indices = np.array([[[1], [3]], [[0], [0]], [[2], [1]]], np.int32)
    expected = np.stack([part[where[:, 0]] for part, where in zip(X, indices, strict=True)])
    actual = run(lambda x, i: mb.gather_nd(x=x, indices=i, batch_dims=1), {"x": X, "i": indices}, tmp_path)
    assert_close(actual, [expected], 0)


def scattered(data: Array, places: list[tuple[Any, ...]], updates: list[Any], mode: str) -> Array:
    """One update after the other."""
    result = data.copy()
    for place, update in zip(places, updates, strict=True):
        old = result[place]
        combined = [MODES[mode](a, b) for a, b in zip(np.ravel(old), np.ravel(update), strict=True)]
        result[place] = np.reshape(combined, np.shape(old))
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axis", [0, -1])
def test_scatter_applies_updates_in_order(axis: int, mode: str, tmp_path: Path) -> None:
    data, indices = normal(3, 4), np.array([1, 0, 1], np.int32)
    updates = normal(3, 4, seed=1) if axis == 0 else normal(3, 3, seed=1)
    places = [(index,) if axis == 0 else (slice(None), index) for index in indices]
    expected = scattered(data, places, list(np.moveaxis(updates, axis, 0)), mode)
    inputs = {"data": data, "indices": indices, "updates": updates}

    def build(data: object, indices: object, updates: object) -> object:
        return mb.scatter(data=data, indices=indices, updates=updates, axis=axis, mode=mode)

    assert_close(run(build, inputs, tmp_path), [expected])


@pytest.mark.parametrize("mode", MODES)
def test_scatter_along_axis_applies_updates_in_order(mode: str, tmp_path: Path) -> None:
    inputs = {
        "data": normal(3, 4),
        "indices": np.array([[1, 1], [0, 3], [2, 2]], np.int32),
        "updates": normal(3, 2, seed=1),
    }
    places = [(row, index) for row, each in enumerate(inputs["indices"]) for index in each]
    expected = scattered(inputs["data"], places, list(inputs["updates"].flatten()), mode)

    def build(data: object, indices: object, updates: object) -> object:
        return mb.scatter_along_axis(data=data, indices=indices, updates=updates, axis=1, mode=mode)

    assert_close(run(build, inputs, tmp_path), [expected])


@pytest.mark.parametrize("mode", MODES)
def test_scatter_nd_applies_updates_in_order(mode: str, tmp_path: Path) -> None:
    inputs = {
        "data": normal(3, 4, 2),
        "indices": np.array([[1, 1], [0, 3], [1, 1]], np.int32),
        "updates": normal(3, 2, seed=1),
    }
    expected = scattered(inputs["data"], [tuple(each) for each in inputs["indices"]], list(inputs["updates"]), mode)

    def build(data: object, indices: object, updates: object) -> object:
        return mb.scatter_nd(data=data, indices=indices, updates=updates, mode=mode)

    assert_close(run(build, inputs, tmp_path), [expected])


def test_integer_scatter_by_division_is_refused(tmp_path: Path) -> None:
    data = np.ones((3, 2), np.int32)

    def build(data: object) -> object:
        return mb.scatter(data=data, indices=np.array([0], np.int32), updates=data, axis=0, mode="div")

    with pytest.raises(TargetError, match=r"scatter .*no stated rounding"):
        run(build, {"data": data[:1]}, tmp_path)
