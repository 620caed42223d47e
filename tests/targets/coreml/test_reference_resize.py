"""Resizing and resampling: against PyTorch where it has the mode, against the definition's notes where it has
not, and against the values that Apple's own tests expect of devices (coremltools 9, mil/ops/tests/iOS14 to
iOS17)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_programs import Array, assert_close, mb, normal, run

from edgewright.errors import TargetError

X = normal(1, 2, 5, 7)
SQUARE = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("mode", "points"),
    [
        ("STRICT_ALIGN_CORNERS", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("ALIGN_CORNERS", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("DEFAULT", [0.0, 0.4, 0.8, 1.0, 1.0]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("UNALIGN_CORNERS", [0.0, 0.1, 0.5, 0.9, 1.0]),
    ],
)
def test_grid_is_the_one_in_the_notes(mode: str, points: list[float], tmp_path: Path) -> None:
    """Two pixels, 0 and 1, made five: the result is the grid itself."""
    x = np.float32([[[0, 1]]])

    def build(x: object) -> object:
        by_size = mb.resize_bilinear(x=x, target_size_height=1, target_size_width=5, sampling_mode=mode)
        shape = np.array([1, 5], np.int32)
        return [by_size, mb.resize(x=x, shape=shape, resized_dims=np.uint32(2), sampling_mode=mode)]

    assert_close(run(build, {"x": x}, tmp_path), [np.float32([[points]])] * 2)


@pytest.mark.parametrize(("mode", "point"), [("ALIGN_CORNERS", 0.5), ("STRICT_ALIGN_CORNERS", 0.0)])
def test_single_point_stands_in_the_middle_unless_corners_are_strict(mode: str, point: float, tmp_path: Path) -> None:
    def build(x: object) -> object:
        return mb.resize_bilinear(x=x, target_size_height=1, target_size_width=1, sampling_mode=mode)

    assert_close(run(build, {"x": np.float32([[[0, 1]]])}, tmp_path), [np.float32([[[point]]])])


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(10, 21), (3, 4), (8, 5)], ids=str)
def test_resize_bilinear_equals_torch(size: tuple[int, int], align_corners: bool, tmp_path: Path) -> None:
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS"
    expected = F.interpolate(torch.from_numpy(X), size, mode="bilinear", align_corners=align_corners)

    def build(x: object) -> object:
        height, width = size
        return mb.resize_bilinear(x=x, target_size_height=height, target_size_width=width, sampling_mode=mode)

    assert_close(run(build, {"x": X}, tmp_path), [expected.numpy()])


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("factors", [(2, 3), (1.5, 2.6)], ids=str)
def test_upsample_bilinear_equals_torch(factors: Any, align_corners: bool, tmp_path: Path) -> None:
    expected = F.interpolate(
        torch.from_numpy(X),
        scale_factor=factors,
        mode="bilinear",
        align_corners=align_corners,
        recompute_scale_factor=True,
    )

    def build(x: object) -> object:
        height, width = factors
        return mb.upsample_bilinear(
            x=x, scale_factor_height=height, scale_factor_width=width, align_corners=align_corners
        )

    assert_close(run(build, {"x": X}, tmp_path, "iOS15"), [expected.numpy()])


def test_upsample_bilinear_without_half_pixels_starts_at_the_pixels(tmp_path: Path) -> None:
    """Apple's expected values."""

    def build(x: object) -> object:
        return mb.upsample_bilinear(
            x=x, scale_factor_height=1, scale_factor_width=3, align_corners=False, half_pixel_centers=False
        )

    expected = np.float32([[[[1, 4 / 3, 5 / 3, 2, 2, 2]]]])
    assert_close(run(build, {"x": np.float32([[[[1, 2]]]])}, tmp_path), [expected])


@pytest.mark.parametrize("factors", [(2, 3), (3.17, 0.67), (2.0, 1.12)], ids=str)
def test_upsample_nearest_equals_torch(factors: Any, tmp_path: Path) -> None:
    size = [int(np.floor(np.float32(factor) * length)) for factor, length in zip(factors, (5, 7), strict=True)]
    expected = F.interpolate(torch.from_numpy(X), size=size, mode="nearest")

    def build(x: object) -> object:
        height, width = factors
        return mb.upsample_nearest_neighbor(x=x, scale_factor_height=height, scale_factor_width=width)

    assert_close(run(build, {"x": X}, tmp_path), [expected.numpy()], 0)


@pytest.mark.parametrize("size", [(10, 21), (3, 4), (8, 5)], ids=str)
def test_resize_nearest_takes_the_pixel_under_the_centre(size: tuple[int, int], tmp_path: Path) -> None:
    """PyTorch's "nearest-exact"."""
    expected = F.interpolate(torch.from_numpy(X), size, mode="nearest-exact").numpy()

    def build(x: object) -> object:
        height, width = size
        return [
            mb.resize_nearest_neighbor(x=x, target_size_height=height, target_size_width=width),
            mb.resize(x=x, shape=size, resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
        ]

    assert_close(run(build, {"x": X}, tmp_path), [expected] * 2, 0)


def test_resize_nearest_of_two_made_three_is_apples(tmp_path: Path) -> None:
    x = np.float32([-6.174, 9.371]).reshape(1, 1, 2, 1)

    def build(x: object) -> object:
        shape = np.array([1, 1, 3, 2], np.int32)
        return mb.resize(x=x, shape=shape, resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR")

    expected = np.float32([-6.174, -6.174, 9.371, 9.371, 9.371, 9.371]).reshape(1, 1, 3, 2)
    assert_close(run(build, {"x": x}, tmp_path), [expected], 0)


def test_resize_keeps_a_dimension_of_zero(tmp_path: Path) -> None:
    expected = F.interpolate(torch.from_numpy(X), (5, 14), mode="bilinear", align_corners=True)

    def build(x: object, shape: object) -> object:
        return mb.resize(x=x, shape=shape, resized_dims=np.uint32(2), sampling_mode="STRICT_ALIGN_CORNERS")

    inputs = {"x": X, "shape": np.array([9, 0, 14], np.int32)}
    assert_close(run(build, inputs, tmp_path), [expected.numpy()])


def test_nearest_pixel_of_unstated_sampling_is_refused(tmp_path: Path) -> None:
    def build(x: object) -> object:
        return mb.resize(
            x=x,
            shape=[3, 3],
            resized_dims=np.uint32(2),
            interpolation_mode="NEAREST_NEIGHBOR",
            sampling_mode="ALIGN_CORNERS",
        )

    with pytest.raises(TargetError, match=r"resize .*not stated for sampling mode 'ALIGN_CORNERS'"):
        run(build, {"x": X}, tmp_path)


def resampled(x: Array, coordinates: Array, folder: Path, **parameters: Any) -> Array:
    def build(x: object, c: object) -> object:
        return mb.resample(x=x, coordinates=c, **parameters)

    return run(build, {"x": x, "c": coordinates}, folder)[0]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding_mode", ["constant", "border"])
@pytest.mark.parametrize("sampling_mode", ["bilinear", "nearest"])
def test_resample_equals_torch_grid_sample(
    sampling_mode: str, padding_mode: str, align_corners: bool, tmp_path: Path
) -> None:
    x = normal(2, 3, 5, 6)
    grid = np.random.default_rng(1).uniform(-1.4, 1.4, (2, 4, 3, 2)).astype(np.float32)
    expected = F.grid_sample(
        torch.from_numpy(x),
        torch.from_numpy(grid),
        mode=sampling_mode,
        padding_mode={"constant": "zeros", "border": "border"}[padding_mode],
        align_corners=align_corners,
    )
    actual = resampled(
        x,
        grid,
        tmp_path,
        sampling_mode=sampling_mode,
        padding_mode=padding_mode,
        padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=align_corners,
    )
    assert_close([actual], [expected.numpy()])


@pytest.mark.parametrize(
    ("sampling_mode", "padding_mode", "coordinates_mode", "align_corners", "expected"),
    [
        ("bilinear", "constant", "normalized_minus_one_to_one", True, [8.585, 6.17, 27.5, 6.17]),
        ("nearest", "border", "unnormalized", False, [11.0, 11.0, 11.0, 44.0]),
        ("bilinear", "reflection", "normalized_zero_to_one", True, [22.0, 36.3, 11.0, 34.1]),
    ],
)
def test_resample_gives_apples_values(
    sampling_mode: str,
    padding_mode: str,
    coordinates_mode: str,
    align_corners: bool,
    expected: list[float],
    tmp_path: Path,
) -> None:
    x = np.float32([11, 22, 33, 44]).reshape(1, 1, 2, 2)
    points = np.float32([-1.0, -2.0, -3.7, -1.0, 0.0, 0.0, 3.5, 1.2]).reshape(1, 2, 2, 2)
    actual = resampled(
        x,
        points,
        tmp_path,
        sampling_mode=sampling_mode,
        padding_mode=padding_mode,
        padding_value=6.17,
        coordinates_mode=coordinates_mode,
        align_corners=align_corners,
    )
    assert_close([actual], [np.float32(expected).reshape(1, 1, 2, 2)])


@pytest.mark.parametrize(
    ("padding_mode", "expected"),
    [
        ("symmetric", [3, 2, 1, 1, 2, 3, 3, 2, 1]),
        ("reflection", [2, 3, 2, 1, 2, 3, 2, 1, 2]),
        ("border", [1, 1, 1, 1, 2, 3, 3, 3, 3]),
        ("constant", [0, 0, 0, 1, 2, 3, 0, 0, 0]),
    ],
)
def test_image_goes_on_as_in_the_notes(padding_mode: str, expected: list[int], tmp_path: Path) -> None:
    """|1, 2, 3| with three elements more on each side; the definition's examples, whose reflection starts
    with 2, 3, 2 and whose symmetry with 3, 2, 1."""
    x = np.float32([[[[1, 2, 3]]]])
    points = np.stack([np.arange(-3, 6), np.zeros(9)], -1).astype(np.float32).reshape(1, 1, 9, 2)
    actual = resampled(
        x,
        points,
        tmp_path,
        sampling_mode="nearest",
        padding_mode=padding_mode,
        padding_value=0.0,
        coordinates_mode="unnormalized",
        align_corners=True,
    )
    np.testing.assert_array_equal(actual.flatten(), expected)


def test_point_halfway_between_two_pixels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="does not run resample: a point lies halfway between two pixels"):
        resampled(
            np.float32([[[[1, 2]]]]),
            np.float32([[[[0.5, 0.0]]]]),
            tmp_path,
            sampling_mode="nearest",
            padding_mode="border",
            padding_value=0.0,
            coordinates_mode="unnormalized",
            align_corners=True,
        )


def test_affine_gives_apples_values(tmp_path: Path) -> None:
    inputs = {
        "x": np.float32([11, 22, 33, 44]).reshape(1, 1, 2, 2),
        "m": np.float32([[-1.0, -2.0, -3.7, -1.0, 3.5, 1.2]]),
    }

    def build(x: object, m: object) -> object:
        return mb.affine(
            x=x,
            transform_matrix=m,
            output_height=2,
            output_width=5,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        )

    expected = np.float32([10.7525, 5.94, 2.5025, 0.44, 0, 0, 0, 0, 0, 0]).reshape(1, 1, 2, 5)
    assert_close(run(build, inputs, tmp_path), [expected])


def test_affine_equals_torch(tmp_path: Path) -> None:
    x, matrix = normal(2, 3, 5, 6), np.eye(2, 3, dtype=np.float32) + normal(2, 2, 3, seed=1) / 3

    def build(x: object, m: object) -> object:
        return mb.affine(
            x=x,
            transform_matrix=m,
            output_height=4,
            output_width=7,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        )

    grid = F.affine_grid(torch.from_numpy(matrix), [2, 3, 4, 7], align_corners=True)
    expected = F.grid_sample(torch.from_numpy(x), grid, align_corners=True)
    assert_close(run(build, {"x": x, "m": matrix.reshape(2, 6)}, tmp_path), [expected.numpy()], 1e-4)


def cropped(folder: Path, opset: str, boxes: Array, size: int, **parameters: Any) -> Array:
    def build(x: object) -> object:
        places: dict[str, Any] = {"roi": boxes.reshape(len(boxes), 1, -1, 1, 1)}
        if opset >= "iOS17":
            places = {"boxes": boxes[:, 1:], "box_indices": boxes[:, 0].astype(np.int32)}
        return mb.crop_resize(x=x, target_height=size, target_width=size, **places, **parameters)

    return run(build, {"x": SQUARE}, folder, opset)[0]


@pytest.mark.parametrize("opset", ["iOS15", "iOS16", "iOS17"])
@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        ([1, 1, 2, 2], 2, [6, 7, 10, 11]),
        ([1, 1, 2, 2], 1, [8.5]),
        ([2, 2, 1, 1], 2, [11, 10, 7, 6]),
        ([1, 1, 2, 2], 3, [6, 6.5, 7, 8, 8.5, 9, 10, 10.5, 11]),
    ],
)
def test_crop_resize_gives_apples_values(
    box: list[int], size: int, expected: list[float], opset: str, tmp_path: Path
) -> None:
    boxes = np.float32([[0, *box]])
    actual = cropped(tmp_path, opset, boxes, size, sampling_mode="ALIGN_CORNERS")
    np.testing.assert_allclose(actual.flatten(), expected, rtol=1e-6)
    assert actual.ndim == (4 if opset >= "iOS17" else 5)


@pytest.mark.parametrize("opset", ["iOS16", "iOS17"])
def test_crop_resize_pads_each_point_outside(opset: str, tmp_path: Path) -> None:
    """Apple's expected values, which round 7.9 to 7.899."""
    boxes = np.float32([[0, 0.1, 0.3, 1.3, 1], [0, 0.5, 1.8, 1.0, 0.3], [0, 0.0, 0.4, 0.6, 0.7]])
    actual = cropped(
        tmp_path, opset, boxes, 2, normalized_coordinates=True, sampling_mode="ALIGN_CORNERS", pad_value=10.0
    )
    expected = [3.1, 5.2, 10, 10, 10, 7.9, 10, 13.9, 2.2, 3.1, 9.4, 10.3]
    np.testing.assert_allclose(actual.flatten(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("mode", "box"),
    [
        ("CORNERS_HEIGHT_FIRST", [1, 0, 2, 3]),
        ("CORNERS_WIDTH_FIRST", [0, 1, 3, 2]),
        ("CENTER_SIZE_HEIGHT_FIRST", [1.5, 1.5, 1, 3]),
        ("CENTER_SIZE_WIDTH_FIRST", [1.5, 1.5, 3, 1]),
    ],
)
def test_boxes_mean_the_same_in_every_convention(mode: str, box: list[float], tmp_path: Path) -> None:
    boxes = np.float32([[0, *box]])
    actual = cropped(tmp_path, "iOS17", boxes, 2, sampling_mode="STRICT_ALIGN_CORNERS", box_coordinate_mode=mode)
    np.testing.assert_allclose(actual.flatten(), [5, 8, 9, 12])


def test_spatial_scale_multiplies_the_box(tmp_path: Path) -> None:
    boxes = np.float32([[0, 2, 0, 4, 6]])
    actual = cropped(tmp_path, "iOS17", boxes, 2, sampling_mode="STRICT_ALIGN_CORNERS", spatial_scale=0.5)
    np.testing.assert_allclose(actual.flatten(), [5, 8, 9, 12])


def test_box_of_offset_corners_is_sampled_at_the_middle_of_its_cells(tmp_path: Path) -> None:
    """The interval 0 .. 2 in two cells, by the formula: 0.5 and 1.5 in both directions."""
    actual = cropped(tmp_path, "iOS17", np.float32([[0, 0, 0, 2, 2]]), 2, sampling_mode="OFFSET_CORNERS")
    np.testing.assert_allclose(actual.flatten(), [3.5, 4.5, 7.5, 8.5])


def test_box_outside_of_the_image_is_refused_before_ios16(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="before iOS 16 no value is stated there"):
        cropped(tmp_path, "iOS15", np.float32([[0, 0, 0, 5, 5]]), 2, sampling_mode="ALIGN_CORNERS")
