"""Quantization and compressed constants, against coremltools' own decompression and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import types
from reference_programs import Array, assert_close, inferred, mb, normal, run, save

from edgewright.targets.coreml.reference import ReferenceModel

X = normal(2, 3, 4) * 3


def integers(low: int, high: int, *shape: int, dtype: Any = np.int8) -> Array:
    return np.random.default_rng(0).integers(low, high, shape).astype(dtype)


def few_bits(values: Array, dtype: str) -> Array:
    """An array that coremltools stores with few bits an element."""
    return values.astype(types.string_to_nptype(dtype))


def decompressed(build: Any, folder: Path, opset: str) -> list[tuple[Array, Array]]:
    """Each compressed constant of a saved program, from the reference interpreter and from coremltools."""
    own: list[Array] = []

    def outputs(x: object) -> list[Any]:
        results = build()
        op = results[0].op
        dense = op.materialized_val_inference()
        own.extend(dense if isinstance(dense, tuple) else [dense])
        last = results[-1]
        wide = last if last.dtype in (types.fp16, types.fp32) else mb.cast(x=last, dtype="fp32")
        return [mb.add(x=wide, y=mb.cast(x=x, dtype=types.builtin_to_string(wide.dtype)))]

    (actual,) = run(outputs, {"x": np.zeros(1, np.float32)}, folder, opset)
    return [(actual, own[-1])]


def listed(result: Any) -> list[Any]:
    return list(result) if isinstance(result, list | tuple) else [result]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_quantize_and_dequantize_equal_coremltools(axis: int | None, dtype: str, tmp_path: Path) -> None:
    size = 1 if axis is None else X.shape[axis]
    scale = np.linspace(0.02, 0.05, size).astype(np.float32)
    zero_point = np.arange(size).astype(dtype)
    scale, zero_point = (scale[0], zero_point[0]) if axis is None else (scale, zero_point)

    def build(x: object) -> object:
        q = mb.quantize(input=x, scale=scale, zero_point=zero_point, output_dtype=dtype, axis=axis)
        return [
            mb.cast(x=q, dtype="int32"),
            mb.dequantize(input=q, scale=scale, zero_point=zero_point, axis=axis),
        ]

    levels, back = run(build, {"x": X}, tmp_path)

    def infer(x: object) -> object:
        q = mb.quantize(input=x, scale=scale, zero_point=zero_point, output_dtype=dtype, axis=axis)
        return [mb.cast(x=q, dtype="int32")]

    assert_close([levels], inferred(infer, {"x": X}), 0)
    shape = [1, 1, 1]
    shape[axis or 0] = size
    shift, step = np.reshape(zero_point, shape).astype(np.int32), np.reshape(scale, shape)
    assert_close([back], [(levels - shift) * step])


def test_quantize_rounds_halves_to_even_and_saturates(tmp_path: Path) -> None:
    x = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, 200, -200])

    def build(x: object) -> object:
        return mb.cast(x=mb.quantize(input=x, scale=np.float32(1), output_dtype="int8"), dtype="int32")

    np.testing.assert_array_equal(run(build, {"x": x}, tmp_path)[0], [0, 2, 2, 0, -2, 127, -128])


def test_float16_quantize_divides_in_float32(tmp_path: Path) -> None:
    x, scale = (X * 10).astype(np.float16), np.float16(0.37)

    def build(x: object) -> object:
        return mb.cast(x=mb.quantize(input=x, scale=scale, output_dtype="int8"), dtype="int32")

    expected = np.clip(np.round(x.astype(np.float32) / np.float32(scale)), -128, 127)
    np.testing.assert_array_equal(run(build, {"x": x}, tmp_path)[0], expected)


@pytest.mark.parametrize("scale", [np.float32(0.3), np.float32([0.1, 0.2, 0.3]), np.float16([0.1, 0.2, 0.3])])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_affine_dequantize_equals_coremltools(dtype: Any, scale: Any, tmp_path: Path) -> None:
    data = integers(0, 100, 2, 3, 4, dtype=dtype)
    zero_point = np.zeros(np.shape(scale), dtype) + dtype(7)

    def build() -> list[Any]:
        op = mb.constexpr_affine_dequantize(quantized_data=data, zero_point=zero_point, scale=scale, axis=1)
        return [op]

    for actual, expected in decompressed(build, tmp_path, "iOS16"):
        assert actual.dtype == scale.dtype
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("with_offset", [True, False])
@pytest.mark.parametrize("blocks", [(1, 1), (4, 1), (2, 3), (4, 6)], ids=str)
def test_blockwise_shift_scale_equals_coremltools(
    blocks: tuple[int, int], with_offset: bool, dtype: str, tmp_path: Path
) -> None:
    low, high = (0, 16) if dtype.startswith("u") else (-8, 8)
    data = few_bits(integers(low, high, 4, 6), dtype)
    scale = np.abs(normal(*blocks)) + np.float32(0.1)
    offset = few_bits(integers(low, high, *blocks), dtype) if with_offset else None

    def build() -> list[Any]:
        return [mb.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=offset)]

    for actual, expected in decompressed(build, tmp_path, "iOS18"):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_packed_lookup_equals_coremltools(bits: int, tmp_path: Path) -> None:
    """13 indices, so that some lie across the borders of bytes and the last byte is not full."""
    indices, lut = integers(0, 2**bits, 13, dtype=np.uint8), normal(2**bits)
    stream = "".join(format(index, f"0{bits}b")[::-1] for index in indices)
    packed = [int(stream[at : at + 8][::-1], 2) for at in range(0, len(stream), 8)]

    def build() -> list[Any]:
        shape = np.array([13, 1], np.uint32)
        return [mb.constexpr_lut_to_dense(indices=np.array(packed, np.uint8), lut=lut, shape=shape)]

    for actual, expected in decompressed(build, tmp_path, "iOS16"):
        np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(actual.flatten(), lut[indices])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_lookup_equals_coremltools(bits: int, tmp_path: Path) -> None:
    indices, lut = (
        few_bits(integers(0, 2**bits, 4, 6, dtype=np.uint8), f"uint{bits}"),
        normal(2, 3, 2**bits, 1),
    )

    def build() -> list[Any]:
        return [mb.constexpr_lut_to_dense(indices=indices, lut=lut)]

    for actual, expected in decompressed(build, tmp_path, "iOS18"):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lookup_of_vectors_equals_coremltools(axis: int, tmp_path: Path) -> None:
    indices, lut = few_bits(integers(0, 4, 4, 6, dtype=np.uint8), "uint2"), normal(2, 1, 4, 3)

    def build() -> list[Any]:
        return [mb.constexpr_lut_to_dense(indices=indices, lut=lut, vector_axis=np.int32(axis))]

    for actual, expected in decompressed(build, tmp_path, "iOS18"):
        np.testing.assert_array_equal(actual, expected)


def test_sparse_constants_equal_coremltools(tmp_path: Path) -> None:
    mask = integers(0, 2, 3, 5, dtype=np.uint8)
    values = normal(int(mask.sum()))
    packed = np.packbits(mask.flatten(), bitorder="little")

    def packed_mask() -> list[Any]:
        shape = np.array(mask.shape, np.uint32)
        return [mb.constexpr_sparse_to_dense(nonzero_data=values, mask=packed, shape=shape)]

    def plain_mask() -> list[Any]:
        return [mb.constexpr_sparse_to_dense(nonzero_data=values, mask=few_bits(mask, "uint1"))]

    for opset, build in (("iOS16", packed_mask), ("iOS18", plain_mask)):
        (tmp_path / opset).mkdir()
        for actual, expected in decompressed(build, tmp_path / opset, opset):
            np.testing.assert_array_equal(actual, expected)
            np.testing.assert_array_equal(actual[mask != 0], values)


@pytest.mark.parametrize("vector_axis", [None, 0, 1])
def test_sparse_lookup_equals_coremltools(vector_axis: int | None, tmp_path: Path) -> None:
    mask = few_bits(integers(0, 2, 4, 6, dtype=np.uint8), "uint1")
    indices = few_bits(integers(0, 4, int(mask.sum()), dtype=np.uint8), "uint2")
    lut = normal(1, 1, 4, 1 if vector_axis is None else 2)

    def build() -> list[Any]:
        axis = None if vector_axis is None else np.int32(vector_axis)
        return listed(
            mb.constexpr_lut_to_sparse(indices_mask=mask, indices_nonzero_data=indices, lut=lut, vector_axis=axis)
        )

    for actual, expected in decompressed(build, tmp_path, "iOS18"):
        np.testing.assert_array_equal(actual, expected)


def test_sparse_shift_scale_follows_the_example_of_its_definition(tmp_path: Path) -> None:
    mask = few_bits(np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]]), "uint1")
    values, offset = np.arange(10, 12).tolist() + list(range(3, 10)), np.array([[1, 2, 3, 4]], np.int8)
    scale = np.float32([[0.1, 0.2, 0.3, 0.4]])

    def build() -> list[Any]:
        return listed(
            mb.constexpr_sparse_blockwise_shift_scale(
                data_mask=mask, nonzero_data=np.array(values, np.int8), scale=scale, offset=offset
            )
        )

    for actual, expected in decompressed(build, tmp_path, "iOS18"):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
        np.testing.assert_allclose(actual, [0.9, 1.8, 0.2, 0.4, 0.6, 0.9, 1.2, 0.7, 1.4], rtol=1e-5)


@pytest.mark.parametrize("opset", ["iOS16", "iOS18"])
def test_constant_cast_widens(opset: str, tmp_path: Path) -> None:
    source = normal(3, 4).astype(np.float16)

    def build() -> list[Any]:
        return [mb.constexpr_cast(source_val=source, output_dtype="fp32")]

    for actual, _ in decompressed(build, tmp_path, opset):
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(actual, source.astype(np.float32))


def test_compressed_constant_is_computed_once_and_its_source_dropped(tmp_path: Path) -> None:
    data = integers(-100, 100, 64, 64)

    def build(x: object) -> object:
        w = mb.constexpr_blockwise_shift_scale(data=data, scale=np.full((64, 1), 0.1, np.float32))
        return mb.linear(x=x, weight=w)

    model = ReferenceModel.load(save(build, {"x": normal(2, 64)}, tmp_path))
    constants = [value for value in model._constants.values() if value.numel() == data.size]
    assert [str(value.dtype) for value in constants] == ["torch.float32"]
    assert [step.op for step in model._block.steps] == ["linear"]
