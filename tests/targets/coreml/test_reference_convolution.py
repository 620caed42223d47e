"""Convolutions, against PyTorch in double precision where a pad is symmetric, and by hand where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_programs import Array, assert_close, mb, normal, run

from edgewright.errors import TargetError

CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def doubled(array: Array) -> torch.Tensor:
    return torch.from_numpy(array).double()


@pytest.mark.parametrize("opset", ["iOS15", "iOS17"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_conv_equals_torch(dimensions: int, groups: int, opset: str, tmp_path: Path) -> None:
    x, w, b = normal(2, 4, *[7] * dimensions), normal(6, 4 // groups, *[3] * dimensions, seed=1), normal(6)

    def build(x: object) -> object:
        return mb.conv(
            x=x,
            weight=w,
            bias=b,
            strides=[2] * dimensions,
            pad_type="custom",
            pad=[2, 1] * dimensions,
            dilations=[2] + [1] * (dimensions - 1),
            groups=groups,
        )

    padded = F.pad(doubled(x), [2, 1] * dimensions)
    expected = CONV[dimensions](padded, doubled(w), doubled(b), 2, 0, tuple([2] + [1] * (dimensions - 1)), groups)
    assert_close(run(build, {"x": x}, tmp_path, opset), [expected.numpy()])


@pytest.mark.parametrize(
    ("pad_type", "expected"),
    [("same", [3, 7, 5]), ("same_lower", [1, 5, 9]), ("valid", [3, 7])],
)
def test_conv_pads_after_unless_it_says_lower(pad_type: str, expected: list[float], tmp_path: Path) -> None:
    """Sums of two neighbours at a stride of two, by hand."""
    x, weight = np.float32([[[1, 2, 3, 4, 5]]]), np.ones((1, 1, 2), np.float32)

    def build(x: object) -> object:
        return mb.conv(x=x, weight=weight, strides=[2], pad_type=pad_type)

    np.testing.assert_array_equal(run(build, {"x": x}, tmp_path, "iOS16")[0].flatten(), expected)


def test_conv_takes_weights_from_the_program(tmp_path: Path) -> None:
    x, w = normal(1, 3, 6, 6), normal(4, 3, 3, 3, seed=1)
    actual = run(lambda x, w: mb.conv(x=x, weight=w, pad_type="valid"), {"x": x, "w": w}, tmp_path)
    assert_close(actual, [F.conv2d(doubled(x), doubled(w)).numpy()])


def test_float16_conv_accumulates_in_float32(tmp_path: Path) -> None:
    x, w = normal(1, 64, 5, 5).astype(np.float16), normal(4, 64, 3, 3, seed=1).astype(np.float16)
    (actual,) = run(lambda x: mb.conv(x=x, weight=w, pad_type="valid"), {"x": x}, tmp_path)
    expected = F.conv2d(doubled(x), doubled(w)).numpy()
    assert actual.dtype == np.float16
    assert np.all(np.abs(actual - expected) <= np.spacing(np.abs(expected).astype(np.float16)) * 0.51 + 1e-4)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_conv_transpose_equals_torch(dimensions: int, groups: int, tmp_path: Path) -> None:
    x, w, b = normal(2, 4, *[4] * dimensions), normal(4, 6 // groups, *[3] * dimensions, seed=1), normal(6)

    def build(x: object) -> object:
        return mb.conv_transpose(
            x=x,
            weight=w,
            bias=b,
            strides=[2] * dimensions,
            pad_type="custom",
            pad=[1, 1] * dimensions,
            dilations=[2] * dimensions,
            groups=groups,
        )

    expected = CONV_TRANSPOSE[dimensions](
        doubled(x), doubled(w), doubled(b), stride=2, padding=1, dilation=2, groups=groups
    )
    assert_close(run(build, {"x": x}, tmp_path), [expected.numpy()])


@pytest.mark.parametrize("padding", [0, 1])
def test_conv_transpose_reaches_to_its_output_shape(padding: int, tmp_path: Path) -> None:
    x, w = normal(1, 2, 4, 5), normal(2, 3, 3, 3, seed=1)
    expected = F.conv_transpose2d(doubled(x), doubled(w), stride=2, padding=padding, output_padding=1).numpy()

    def build(x: object) -> object:
        pad_type = "custom" if padding else "valid"
        return mb.conv_transpose(
            x=x, weight=w, strides=[2, 2], pad_type=pad_type, pad=[padding] * 4, output_shape=expected.shape
        )

    assert_close(run(build, {"x": x}, tmp_path), [expected])


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_conv_transpose_same_is_the_gradient_of_conv_same(kernel: int, tmp_path: Path) -> None:
    """<conv(v), x> = <v, conv_transpose(x)> for every v, with the program's own conv."""
    x, v, w = normal(1, 3, 4), normal(1, 2, 8, seed=1), normal(3, 2, kernel, seed=2)

    def build(x: object, v: object) -> object:
        forward = mb.conv(x=v, weight=w, strides=[2], pad_type="same")
        return [forward, mb.conv_transpose(x=x, weight=w, strides=[2], pad_type="same")]

    forward, backward = run(build, {"x": x, "v": v}, tmp_path)
    assert backward.shape == v.shape
    np.testing.assert_allclose((forward * x).sum(), (v * backward).sum(), rtol=1e-4)


def test_conv_transpose_of_an_impossible_output_shape_is_refused(tmp_path: Path) -> None:
    w = normal(2, 3, 3)

    def build(x: object) -> object:
        return mb.conv_transpose(x=x, weight=w, strides=[2], pad_type="valid", output_shape=[1, 3, 20])

    with pytest.raises(TargetError, match="does not run conv_transpose: an output of 20"):
        run(build, {"x": normal(1, 2, 4)}, tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_conv_quantized_decompresses_its_weight(channels: int, tmp_path: Path) -> None:
    x, levels = normal(1, 2, 5, 5), np.random.default_rng(0).integers(0, 256, (3, 2, 3, 3)).astype(np.uint8)
    scale, bias = np.float32([0.01, 0.02, 0.03])[:channels], np.float32([-1, -2, -3])[:channels]
    dense = levels * scale[:, None, None, None] + bias[:, None, None, None]
    assert_close(
        run(lambda x: quantized(x, levels, scale, bias), {"x": x}, tmp_path),
        [F.conv2d(doubled(x), torch.from_numpy(dense).double()).numpy()],
    )


def test_conv_quantized_with_a_lookup_table_is_refused(tmp_path: Path) -> None:
    levels, ones = np.ones((3, 2, 3, 3), np.uint8), np.ones(3, np.float32)
    with pytest.raises(TargetError, match=r"conv_quantized .*only quantization_type 'linear'"):
        run(lambda x: quantized(x, levels, ones, ones, "lut"), {"x": normal(1, 2, 5, 5)}, tmp_path)


def quantized(x: Any, weight: Array, scale: Array, bias: Array, kind: str = "linear") -> Any:
    return mb.conv_quantized(
        x=x,
        weight=weight,
        quantization_type=kind,
        nbits=8,
        quant_scale=scale,
        quant_bias=bias,
        pad_type="valid",
    )
