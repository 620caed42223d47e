"""Spell weights that no delegate took as plain arithmetic: the runtime has no kernel of its own to dequantize them."""

from __future__ import annotations

from typing import Any


def spell_out_weights() -> Any:
    """A pass over an edge program, with the same numbers before and after; the weight stays stored in 8 bits.

    Given: dequantize_per_channel(q, s, z) behind which a portable kernel computes. Result: (float(q) - z) * s.
    (A quantized value on its own is no case for this: XNNPACK takes it as a conversion.)
    """
    import torch
    from executorch.exir.dialects._ops import ops
    from executorch.exir.pass_base import ExportPass

    per_channel = ops.edge.quantized_decomposed.dequantize_per_channel.default
    cast, edge = ops.edge.dim_order_ops._to_dim_order_copy.default, ops.edge.aten

    class SpellOutWeights(ExportPass):  # type: ignore[misc]  # ExecuTorch has no types here
        def call_operator(self, operation: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if operation != per_channel:
                return super().call_operator(operation, args, kwargs, meta)

            def call(target: Any, *arguments: Any, **named: Any) -> Any:
                return ExportPass.call_operator(self, target, arguments, named, meta)

            value, scales, zero_points, axis = args[:4]
            shape = [-1 if place == axis else 1 for place in range(value.to_tensor().dim())]
            number, offset, scale = (
                call(cast, part, dtype=torch.float32)
                for part in (
                    value,
                    call(edge.view_copy.default, zero_points, shape),
                    call(edge.view_copy.default, scales, shape),
                )
            )
            return call(edge.mul.Tensor, call(edge.sub.Tensor, number, offset), scale)

    return SpellOutWeights()
