"""How coremltools makes constants of stored weights: what its own converters take in part only."""

from __future__ import annotations

from typing import Any


def register_weights() -> None:
    """Teach coremltools' converter weights of few bits with any number of axes; its own takes matrices alone."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op
    from coremltools.converters.mil.mil import types

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
