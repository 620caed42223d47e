"""Branches, loops, lists, states and classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from reference_programs import assert_close, mb, normal, run, save

from edgewright.errors import TargetError
from edgewright.targets.coreml.reference import ReferenceModel

X = normal(2, 3)


@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_branch_runs_one_of_its_blocks(flag: float, tmp_path: Path) -> None:
    """Both blocks read a value from around them."""

    def build(x: object, flag: object) -> object:
        shifted = mb.add(x=x, y=np.float32(1))
        return mb.cond(
            pred=mb.cast(x=mb.squeeze(x=flag), dtype="bool"),
            _true_fn=lambda: mb.mul(x=shifted, y=np.float32(2)),
            _false_fn=lambda: mb.sub(x=shifted, y=x),
        )

    expected = (X + 1) * 2 if flag else np.ones_like(X)
    assert_close(run(build, {"x": X, "flag": np.float32([flag])}, tmp_path), [expected])


@pytest.mark.parametrize("times", [0, 1, 5])
def test_loop_runs_while_its_condition_holds(times: int, tmp_path: Path) -> None:
    def build(x: object, times: object) -> object:
        last = mb.squeeze(x=times)
        outer = mb.relu(x=x)
        return mb.while_loop(
            _cond=lambda i, y: mb.less(x=i, y=last),
            _body=lambda i, y: (mb.add(x=i, y=np.int32(1)), mb.add(x=mb.mul(x=y, y=np.float32(2)), y=outer)),
            loop_vars=(np.int32(0), x),
        )

    y = X
    for _ in range(times):
        y = y * 2 + np.maximum(X, 0)
    count, actual = run(build, {"x": X, "times": np.array([times], np.int32)}, tmp_path)
    assert int(count) == times
    assert_close([actual], [y])


def test_list_starts_with_zeros_grows_and_gathers(tmp_path: Path) -> None:
    """Apple's own test of lists."""
    inputs = {"a": np.float32([1, 3]), "b": np.float32([2, 4])}

    def build(a: object, b: object) -> object:
        ls = mb.make_list(init_length=2, elem_shape=(2,))
        first = mb.list_read(ls=ls, index=0)
        ls = mb.list_write(ls=ls, index=0, value=a)
        ls = mb.list_write(ls=ls, index=4, value=b)
        ls = mb.list_scatter(ls=ls, indices=[2, 1], value=np.float32([[-1, -2], [-4, -5]]))
        return [
            first,
            mb.list_read(ls=ls, index=0),
            mb.list_gather(ls=ls, indices=[4, 2, 3]),
            mb.list_length(ls=ls),
        ]

    expected = [np.zeros(2), inputs["a"], np.float32([[2, 4], [-1, -2], [0, 0]]), np.array(5)]
    assert_close(run(build, inputs, tmp_path), expected, 0)


def test_loop_fills_a_list(tmp_path: Path) -> None:
    def build(update: object) -> object:
        ls = mb.make_list(init_length=1, elem_shape=(2,))

        def body(i: object, ls: object) -> Any:
            element = mb.mul(x=update, y=mb.cast(x=i, dtype="fp32"))
            return mb.add(x=i, y=np.int32(1)), mb.list_write(ls=ls, index=i, value=element)

        _, filled = mb.while_loop(
            _cond=lambda i, ls: mb.less(x=i, y=np.int32(3)), _body=body, loop_vars=(np.int32(0), ls)
        )
        return mb.list_gather(ls=filled, indices=mb.range_1d(start=0, end=mb.list_length(ls=filled), step=1))

    assert_close(run(build, {"update": np.float32([1, 2])}, tmp_path), [np.float32([[0, 0], [1, 2], [2, 4]])])


def test_index_outside_of_a_fixed_list_is_refused(tmp_path: Path) -> None:
    def build(x: object) -> object:
        ls = mb.make_list(init_length=2, elem_shape=(2,), dynamic_length=False)
        return mb.list_read(ls=mb.list_write(ls=ls, index=2, value=x), index=0)

    with pytest.raises(TargetError, match="list_write: index 2 lies outside of a list of 2"):
        run(build, {"x": np.float32([1, 2])}, tmp_path)


def accumulator(folder: Path) -> ReferenceModel:
    """Adds its input to a state of zeros, and gives the state."""

    def build(x: object, total: object) -> object:
        return mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=x))

    inputs = {"x": np.ones((2, 3), np.float16)}
    return ReferenceModel.load(save(build, inputs, folder, states={"total": inputs["x"]}))


def test_state_lasts_from_run_to_run_where_it_is_given(tmp_path: Path) -> None:
    model = accumulator(tmp_path)
    states, x = model.make_states(), np.full((2, 3), 1.5, np.float16)
    for runs in (1, 2, 3):
        (total,) = model.run({"x": x}, states).values()
        np.testing.assert_array_equal(total, x * runs)


def test_state_starts_at_zero_in_every_other_run(tmp_path: Path) -> None:
    model = accumulator(tmp_path)
    for _ in range(2):
        (total,) = model.run({"x": np.ones((2, 3), np.float16)}).values()
        np.testing.assert_array_equal(total, np.ones((2, 3)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("classes", [["cat", "dog", "cow"], [7, 2**40, 9]], ids=str)
def test_classifier_names_its_best_class(classes: list[Any], tmp_path: Path) -> None:
    traced = torch.jit.trace(torch.nn.Softmax(-1), torch.zeros(1, 3))
    model = ct.convert(
        traced,
        inputs=[ct.TensorType("x", (1, 3))],
        classifier_config=ct.ClassifierConfig(classes),
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    model.save(str(tmp_path / "model.mlpackage"))
    outputs = ReferenceModel.load(tmp_path / "model.mlpackage").run({"x": np.float32([[0.2, 0.7, 0.1]])})
    label, probabilities = outputs.values()
    assert label.item() == classes[1]
    expected = np.exp([0.2, 0.7, 0.1]) / np.exp([0.2, 0.7, 0.1]).sum()
    np.testing.assert_allclose(probabilities, expected, rtol=1e-3)
