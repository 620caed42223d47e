"""The constexpr operations: constants that are stored compressed. They are computed once, when a program is
loaded.

Source: coremltools 9, mil/ops/defs/iOS16/constexpr_ops.py and iOS18/compression.py. Operations of the same
name differ by opset: up to iOS 17 indices and masks are packed bits with a `shape` beside them, since iOS 18
they are tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgewright.targets.coreml.reference.quantization import along_axis
from edgewright.targets.coreml.reference.registry import mil


def unpack_bits(data: Tensor, bits: int, count: int) -> Tensor:
    """Numbers of `bits` bits from bytes, the least significant bit first, across the borders of bytes."""
    single = (data[:, None] >> torch.arange(8)) & 1
    groups = single.flatten()[: bits * count].reshape(count, bits)
    return (groups << torch.arange(bits)).sum(-1)


def repeat_to(parameter: Tensor, shape: torch.Size) -> Tensor:
    """One parameter for each block: repeated until its leading dimensions are those of `shape`."""
    for axis, size in enumerate(shape):
        parameter = parameter.repeat_interleave(size // parameter.shape[axis], axis)
    return parameter


def scatter_by_mask(nonzero: Tensor, mask: Tensor) -> Tensor:
    """The values at the places that the mask marks, in row-major order, and zeros elsewhere."""
    dense = torch.zeros(mask.shape, dtype=nonzero.dtype)
    dense[mask != 0] = nonzero
    return dense


def look_up(indices: Tensor, lut: Tensor, vector_axis: int | None) -> Tensor:
    """Each index's vector from the table of its block, laid along `vector_axis`.

    Args:
        lut: (*blocks, palettes, vector size), where blocks divide the dimensions of `indices`.
    """
    tables = repeat_to(lut, indices.shape).flatten(0, indices.dim() - 1)
    vectors = tables[torch.arange(indices.numel()), indices.flatten().long()]
    vectors = vectors.reshape(*indices.shape, lut.shape[-1])
    if vector_axis is None or lut.shape[-1] == 1:
        return vectors.squeeze(-1)
    axis = vector_axis % indices.dim()
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1)


@mil("constexpr_affine_dequantize")
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    rank = quantized_data.dim()
    return (quantized_data - along_axis(zero_point, rank, axis)) * along_axis(scale, rank, axis)


@mil("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale * (data - offset), where scale and offset belong to blocks of data.shape / scale.shape."""
    shifted = data if offset is None else data - repeat_to(offset, data.shape)
    return shifted * repeat_to(scale, data.shape)


@mil("constexpr_cast")
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    return source_val


@mil("constexpr_lut_to_dense")
def constexpr_lut_to_dense(
    indices: Tensor,
    lut: Tensor,
    opset: int,
    shape: list[int] | None = None,
    vector_axis: int | None = None,
) -> Tensor:
    if opset >= 18:
        return look_up(indices, lut, vector_axis)
    assert shape is not None, "MIL asks for it before iOS 18"
    bits = int(math.log2(lut.numel()))
    return lut[unpack_bits(indices, bits, math.prod(shape)).long()].reshape(shape)


@mil("constexpr_sparse_to_dense")
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, opset: int, shape: list[int] | None = None) -> Tensor:
    if opset < 18:
        assert shape is not None, "MIL asks for it before iOS 18"
        mask = unpack_bits(mask, 1, math.prod(shape)).reshape(shape)
    return scatter_by_mask(nonzero_data, mask)


@mil("constexpr_lut_to_sparse")
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """The mask (repeated along `vector_axis`) and the looked-up values at its marks."""
    dense = look_up(scatter_by_mask(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, dense[mask != 0]


@mil("constexpr_sparse_blockwise_shift_scale")
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    dense = constexpr_blockwise_shift_scale(scatter_by_mask(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]
