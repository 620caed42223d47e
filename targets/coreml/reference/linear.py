"""Matrix products.

Source: coremltools 9, mil/ops/defs/iOS15/linear.py; iOS17/linear.py lets a constant operand have another
dtype; iOS18/transformers.py (scaled_dot_product_attention).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edgewright.targets.coreml.reference.registry import limit, mil


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Of a floating-point operand and integers, in float32; of integers, exactly."""
    common = torch.promote_types(x.dtype, y.dtype)
    return torch.matmul(x.to(common), y.to(common))


@mil("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = _product(x, weight.T)
    return product if bias is None else product + bias


@mil("matmul")
def matmul(x: Tensor, y: Tensor, transpose_x: bool, transpose_y: bool) -> Tensor:
    """A transposition has no effect on a vector."""
    x = x.mT if transpose_x and x.dim() > 1 else x
    y = y.mT if transpose_y and y.dim() > 1 else y
    return _product(x, y)


@mil("einsum")
def einsum(values: tuple[Tensor, ...], equation: str) -> Tensor:
    """nchw,nwhu->nchu or chw,whr->chr, where n and h broadcast."""
    return torch.einsum(equation, *values)


@mil("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(E) + mask) v; a bool mask is 0 where true and -infinity where false."""
    similarity = torch.matmul(query, key.mT) / math.sqrt(query.shape[-1])
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        similarity = similarity.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        similarity = similarity + attn_mask
    return torch.matmul(torch.softmax(similarity, -1), value)


@limit("linear", "matmul")
def float_product_of_integers(op: Any) -> str | None:
    from coremltools.converters.mil.mil import types

    operands = [each for each in (op.inputs.get(name) for name in ("x", "y", "weight", "bias")) if each is not None]
    if types.is_int(op.outputs[0].dtype) and any(types.is_float(each.dtype) for each in operands):
        return "floating-point constants with an integer result have no stated rounding"
    return None
