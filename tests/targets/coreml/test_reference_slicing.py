"""Slices and layouts, against coremltools' value inference, numpy and PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_programs import assert_close, inferred, mb, normal, run

from edgewright.errors import TargetError

X = normal(3, 4, 5)

SLICES: dict[str, dict[str, Any]] = {
    "plain": {"begin": [1, 0, 2], "end": [3, 4, 5]},
    "negative ends": {"begin": [-2, 0, -3], "end": [-1, -1, 5]},
    "strides": {"begin": [0, 1, 0], "end": [3, 4, 5], "stride": [2, 2, 3]},
    "masks": {
        "begin": [1, 2, 3],
        "end": [2, 3, 4],
        "begin_mask": [True, False, False],
        "end_mask": [False, True, False],
    },
    "backwards": {
        "begin": [2, 3, 4],
        "end": [0, 0, 0],
        "stride": [-1, -2, -1],
        "end_mask": [True, False, True],
        "begin_mask": [False, False, True],
    },
    "squeezed": {"begin": [1, -1, 0], "end": [0, 0, 5], "squeeze_mask": [True, True, False]},
}

LAYOUTS: dict[str, Any] = {
    "slice_by_size": lambda x: mb.slice_by_size(x=x, begin=[1, 0, 2], size=[2, -1, 3]),
    "slice_by_size from the end": lambda x: mb.slice_by_size(x=x, begin=[-2, 1, 0], size=[1, 2, -1]),
    "split evenly": lambda x: mb.split(x=x, num_splits=2, axis=1),
    "split in sizes": lambda x: mb.split(x=x, split_sizes=[1, 4], axis=-1),
    "reshape": lambda x: mb.reshape(x=x, shape=[5, -1, 2]),
    "reshape keeping a dimension": lambda x: mb.reshape(x=x, shape=[0, 2, -1]),
    "expand_dims": lambda x: mb.expand_dims(x=x, axes=[-1, 2]),
    "squeeze": lambda x: mb.squeeze(x=mb.expand_dims(x=x, axes=[0, 2]), axes=[0, 2]),
    "squeeze all": lambda x: mb.squeeze(x=mb.expand_dims(x=x, axes=[0, 2])),
    "transpose": lambda x: mb.transpose(x=x, perm=[2, 0, 1]),
    "flatten2d": lambda x: mb.flatten2d(x=x, axis=-1),
    "concat": lambda x: mb.concat(values=[x, mb.relu(x=x)], axis=1),
    "stack": lambda x: mb.stack(values=[x, mb.relu(x=x)], axis=-1),
    "reverse": lambda x: mb.reverse(x=x, axes=[0, -1]),
    "reverse all": lambda x: mb.reverse(x=x),
    "shape": lambda x: mb.shape(x=x),
}


@pytest.mark.parametrize("name", SLICES)
@pytest.mark.parametrize("opset", ["iOS15", "iOS18"])
def test_slice_by_index_equals_coremltools(name: str, opset: str, tmp_path: Path) -> None:
    def build(x: object) -> object:
        return mb.slice_by_index(x=x, **SLICES[name])

    assert_close(run(build, {"x": X}, tmp_path, opset), inferred(build, {"x": X}, opset), 0)


@pytest.mark.parametrize("name", SLICES)
def test_slice_update_equals_coremltools(name: str, tmp_path: Path) -> None:
    (part,) = inferred(lambda x: mb.slice_by_index(x=x, **SLICES[name]), {"x": X})
    inputs = {"x": X, "update": normal(*part.shape, seed=1)}

    def build(x: object, update: object) -> object:
        return mb.slice_update(x=x, update=update, **SLICES[name])

    assert_close(run(build, inputs, tmp_path), inferred(build, inputs), 0)


def test_slice_takes_its_bounds_from_the_program(tmp_path: Path) -> None:
    inputs = {"x": X, "begin": np.array([1, 0, 2], np.int32), "end": np.array([3, 2, 4], np.int32)}
    actual = run(lambda x, begin, end: mb.slice_by_index(x=x, begin=begin, end=end), inputs, tmp_path)
    assert_close(actual, [X[1:3, 0:2, 2:4]], 0)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("opset", ["iOS15", "iOS18"])
def test_layout_equals_coremltools(name: str, opset: str, tmp_path: Path) -> None:
    build = LAYOUTS[name]
    assert_close(run(build, {"x": X}, tmp_path, opset), inferred(build, {"x": X}, opset), 0)


def test_zero_in_a_shape_counts_from_the_right_since_ios17(tmp_path: Path) -> None:
    """The example of the definition: (2, 50) to [1, 0, -1, 0] is (1, 1, 2, 50)."""
    (actual,) = run(lambda x: mb.reshape(x=x, shape=[1, 0, -1, 0]), {"x": normal(2, 50)}, tmp_path)
    assert actual.shape == (1, 1, 2, 50)


def test_interleaved_concat_takes_turns(tmp_path: Path) -> None:
    """The example of the definition."""
    inputs = {"x": np.float32([[1, 2], [3, 4], [5, 6]]), "y": np.float32([[7, 8], [9, 10], [11, 12]])}
    actual = run(lambda x, y: mb.concat(values=[x, y], axis=0, interleave=True), inputs, tmp_path)
    assert_close(actual, [np.float32([[1, 2], [7, 8], [3, 4], [9, 10], [5, 6], [11, 12]])], 0)


def test_reshape_like_joins_the_shapes_of_others(tmp_path: Path) -> None:
    """The example of the definition: (2, 3) of (2, 3, 4) and (5, 6) of (1, 5, 6)."""
    inputs = {"x": normal(180), "a": normal(2, 3, 4), "b": normal(1, 5, 6)}

    def build(x: object, a: object, b: object) -> object:
        return mb.reshape_like(x=x, ref_tensors=(a, b), begins=(0, 1), ends=(2, 0), end_masks=(False, True))

    assert_close(run(build, inputs, tmp_path), [inputs["x"].reshape(2, 3, 5, 6)], 0)


def test_reverse_sequence_turns_the_first_elements(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    lengths = np.array([2, 4, 0], np.int32)
    expected = np.float32([[1, 0, 2, 3], [7, 6, 5, 4], [8, 9, 10, 11]])

    def build(x: object, lengths: object) -> object:
        return mb.reverse_sequence(x=x, lengths=lengths, seq_axis=1, batch_axis=0)

    assert_close(run(build, {"x": x, "lengths": lengths}, tmp_path), [expected], 0)


def test_pixels_shuffle_as_in_torch(tmp_path: Path) -> None:
    x, y = normal(2, 12, 3, 2), normal(2, 3, 6, 4)
    expected = [F.pixel_shuffle(torch.from_numpy(x), 2), F.pixel_unshuffle(torch.from_numpy(y), 2)]

    def build(x: object, y: object) -> object:
        unshuffled = mb.pixel_unshuffle(x=y, downscale_factor=np.uint32(2))
        return [mb.pixel_shuffle(x=x, upscale_factor=2), unshuffled]

    assert_close(run(build, {"x": x, "y": y}, tmp_path), [each.numpy() for each in expected], 0)


def test_depth_moves_to_space_with_the_block_before_the_channel(tmp_path: Path) -> None:
    """TensorFlow's depth_to_space: channel (i, j, c) goes to pixel (i, j) of channel c; and back."""
    x = normal(1, 8, 2, 3)
    expected = np.empty((1, 2, 4, 6), np.float32)
    for i in range(2):
        for j in range(2):
            for c in range(2):
                expected[0, c, i::2, j::2] = x[0, i * 4 + j * 2 + c]

    def build(x: object) -> object:
        spread = mb.depth_to_space(x=x, block_size=2)
        return [spread, mb.space_to_depth(x=spread, block_size=2)]

    assert_close(run(build, {"x": x}, tmp_path), [expected, x], 0)


def test_space_moves_to_batches_block_by_block(tmp_path: Path) -> None:
    """TensorFlow's space_to_batch: pixel (i, j) of each block goes to batch (i, j); and back."""
    x = normal(1, 2, 3, 4)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 2)])
    expected = np.concatenate([padded[:, :, i::2, j::3] for i in range(2) for j in range(3)])

    def build(x: object) -> object:
        batches = mb.space_to_batch(x=x, block_shape=[2, 3], paddings=[[1, 0], [0, 2]])
        return [batches, mb.batch_to_space(x=batches, block_shape=[2, 3], crops=[[1, 0], [0, 2]])]

    assert_close(run(build, {"x": x}, tmp_path), [expected, x], 0)


def test_crop_cuts_the_borders(tmp_path: Path) -> None:
    x = normal(1, 2, 5, 6)
    actual = run(lambda x: mb.crop(x=x, crop_height=[1, 0], crop_width=[2, 1]), {"x": x}, tmp_path)
    assert_close(actual, [x[:, :, 1:, 2:-1]], 0)


def test_sliding_windows_stand_behind_their_axis(tmp_path: Path) -> None:
    expected = np.stack([X[:, start : start + 3] for start in (0, 1)], axis=1)
    actual = run(lambda x: mb.sliding_windows(x=x, axis=1, size=3, stride=1), {"x": X}, tmp_path)
    assert_close(actual, [expected], 0)


def test_slice_beyond_a_dimension_is_refused(tmp_path: Path) -> None:
    inputs = {"x": X, "begin": np.array([2, 0, 0], np.int32)}
    with pytest.raises(TargetError, match="does not run slice_by_size: the slice 2:4 leaves a dimension of 3"):
        run(lambda x, begin: mb.slice_by_size(x=x, begin=begin, size=[2, 4, 5]), inputs, tmp_path)
