"""Pools, against PyTorch's with its own padding and ceil_mode, and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_programs import assert_close, mb, normal, run

from edgewright.errors import TargetError

X = normal(2, 3, 9, 8)


@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pools_equal_torch(stride: int, padding: int, ceil_mode: bool, tmp_path: Path) -> None:
    shared = {"kernel_sizes": [3, 3], "strides": [stride] * 2, "pad_type": "custom", "pad": [padding] * 4}

    def build(x: object) -> object:
        return [
            mb.max_pool(x=x, ceil_mode=ceil_mode, **shared),
            mb.avg_pool(x=x, ceil_mode=ceil_mode, exclude_padding_from_average=False, **shared),
            mb.avg_pool(x=x, ceil_mode=ceil_mode, exclude_padding_from_average=True, **shared),
        ]

    x = torch.from_numpy(X)
    expected = [
        F.max_pool2d(x, 3, stride, padding, ceil_mode=ceil_mode),
        F.avg_pool2d(x, 3, stride, padding, ceil_mode, count_include_pad=True),
        F.avg_pool2d(x, 3, stride, padding, ceil_mode, count_include_pad=False),
    ]
    assert_close(run(build, {"x": X}, tmp_path), [each.numpy() for each in expected])


@pytest.mark.parametrize("dimensions", [1, 3])
def test_pools_of_other_ranks_equal_torch(dimensions: int, tmp_path: Path) -> None:
    x = normal(1, 2, *[6] * dimensions)
    functions = {1: (F.max_pool1d, F.avg_pool1d), 3: (F.max_pool3d, F.avg_pool3d)}[dimensions]
    shared = {"kernel_sizes": [2] * dimensions, "strides": [2] * dimensions, "pad_type": "valid"}
    actual = run(lambda x: [mb.max_pool(x=x, **shared), mb.avg_pool(x=x, **shared)], {"x": x}, tmp_path)
    assert_close(actual, [function(torch.from_numpy(x), 2, 2).numpy() for function in functions])


def test_same_padding_stands_after_and_same_lower_before(tmp_path: Path) -> None:
    x = np.float32([[[1, 5, 2, 4]]])

    def build(x: object) -> object:
        kinds = ("same", "same_lower")
        return [mb.max_pool(x=x, kernel_sizes=[2], strides=[1], pad_type=kind) for kind in kinds]

    assert_close(run(build, {"x": x}, tmp_path), [np.float32([[[5, 5, 4, 4]]]), np.float32([[[1, 5, 5, 4]]])], 0)


def test_average_counts_padding_unless_it_is_excluded(tmp_path: Path) -> None:
    x = np.float32([[[2, 4]]])

    def build(x: object) -> object:
        return [
            mb.avg_pool(x=x, kernel_sizes=[2], pad_type="custom", pad=[1, 0], exclude_padding_from_average=excluded)
            for excluded in (False, True)
        ]

    assert_close(run(build, {"x": x}, tmp_path), [np.float32([[[1, 3]]]), np.float32([[[2, 3]]])], 0)


def test_l2_pool_is_the_root_of_the_sum_of_squares(tmp_path: Path) -> None:
    x = np.float32([[[3, 4, 12, 5]]])
    actual = run(lambda x: mb.l2_pool(x=x, kernel_sizes=[2], strides=[2], pad_type="valid"), {"x": x}, tmp_path)
    assert_close(actual, [np.float32([[[5, 13]]])])


def test_window_in_the_padding_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="does not run max_pool: a window lies in the padding alone"):
        run(
            lambda x: mb.max_pool(x=x, kernel_sizes=[2], pad_type="custom", pad=[2, 0]),
            {"x": normal(1, 1, 4)},
            tmp_path,
        )
