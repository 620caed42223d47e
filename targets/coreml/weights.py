"""How coremltools makes constants of stored weights: what its own converters take in part only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def register_weights() -> None:
    """Teach coremltools' converter weights of few bits with any number of axes (its own takes matrices alone), and
    palettes."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil._deployment_compatibility import AvailableTarget
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op
    from coremltools.converters.mil.mil import types
    from coremltools.converters.mil.mil.block import is_current_opset_version_compatible_with

    int4 = types.nptype_from_builtin(types.string_to_builtin("int4"))

    @register_torch_op(torch_alias=["torchao::dequantize_affine", "torchao.dequantize_affine"], override=True)  # type: ignore[untyped-decorator]
    def dequantize_affine(context: Any, node: Any) -> None:
        integers, _, scales, zero_points, _, lowest, highest = _get_inputs(context, node)[:7]
        if zero_points is not None or (lowest.val, highest.val) != (-8, 7):
            raise ValueError(f"integers from {lowest.val} to {highest.val} with zero points: no constant of Core ML")
        # A scale for each block, as many as each axis has of them.
        context.add(
            mb.constexpr_blockwise_shift_scale(data=integers.val.astype(int4), scale=scales.val, name=node.name),
            node.name,
        )

    @register_torch_op(torch_alias=["edgewright::look_up", "edgewright.look_up"], override=True)  # type: ignore[untyped-decorator]
    def look_up(context: Any, node: Any) -> None:
        indices, table, *axis = _get_inputs(context, node)
        values, lut = indices.val, table.val
        bits = (lut.shape[-2] - 1).bit_length()
        if is_current_opset_version_compatible_with(AvailableTarget.iOS18):
            kind = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
            # The axis is for vectors alone.
            vector_axis = np.int32(axis[0].val if axis else 0) if lut.shape[-1] > 1 else None
            weight = mb.constexpr_lut_to_dense(
                indices=values.astype(kind), lut=lut, vector_axis=vector_axis, name=node.name
            )
        else:
            weight = mb.constexpr_lut_to_dense(
                indices=pack_bits(values, bits), lut=lut.ravel(), shape=np.uint32(values.shape), name=node.name
            )
        context.add(weight, node.name)


def pack_bits(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers below 2**bits in a row of bytes, the least significant bit first, across the borders of bytes."""
    single = np.unpackbits(values.reshape(-1, 1), axis=1, count=bits, bitorder="little")
    return np.packbits(single.ravel(), bitorder="little")
