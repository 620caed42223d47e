"""The operation that stands for palettized weights in a graph: `edgewright::look_up`. Importing this registers it."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("edgewright::look_up", mutates_args=())
def look_up(indices: Tensor, table: Tensor, vector_axis: int = 0) -> Tensor:
    """The weight that indices into tables stand for.

    Args:
        indices: uint8, any shape.
        table: float32, (*blocks, 2**bits, vector): each axis of `indices` is a multiple of its entry in `blocks`, and
            each block of indices has a table of its own. What an index picks is a vector of weights, mostly of one.
        vector_axis: where these vectors lie: the weight is longer than `indices` along this axis by their size.
    Returns:
        float32.
    Source: Han 2016, arXiv:1510.00149, section 3; the layout is that of Core ML's constexpr_lut_to_dense (iOS 18).
    """
    *blocks, entries, vector = table.shape
    place = torch.zeros([1] * indices.dim(), dtype=torch.int64)
    for axis, (size, count) in enumerate(zip(indices.shape, blocks, strict=True)):
        block = torch.arange(size) // (size // count)
        place = place * count + block.reshape([-1 if other == axis else 1 for other in range(indices.dim())])
    found = table.reshape(-1, vector)[place * entries + indices]
    return found.movedim(-1, vector_axis + 1).flatten(vector_axis, vector_axis + 1).contiguous()


@look_up.register_fake
def _shape_of(indices: Tensor, table: Tensor, vector_axis: int = 0) -> Tensor:
    sizes = list(indices.shape)
    sizes[vector_axis] *= table.shape[-1]
    return table.new_empty(sizes)


LOOK_UP = torch.ops.edgewright.look_up.default
