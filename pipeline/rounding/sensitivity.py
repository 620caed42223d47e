"""What rounding a weight costs at the program's outputs, to first order, from one run over the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgewright.pipeline.passes.graph import aten
from edgewright.pipeline.passes.layer_weights import LayerWeight, as_rows
from edgewright.pipeline.rounding.grid import Grid
from edgewright.pipeline.rounding.hessian import hessians_of, output_error


def rounding_costs(
    found: LayerWeight,
    weight: Tensor,
    grids: Sequence[Grid],
    inputs: list[tuple[object, ...]],
    influence: Sequence[Tensor],
) -> list[float]:
    """For each grid: the expected squared change of the outputs, summed over the data.

    An error D of the weight changes row t of the layer's output by D x_t, and the outputs by g_t . D x_t. With g_t of
    no known direction, the expectation of its square is |g_t|^2 |D x_t|^2 / channels.

    Args:
        influence: |g_t|^2 of each row, in each batch, of `row_influence`.
    Source: Dong 2020, arXiv:1911.03852 (HAWQ-V2): sensitivity as curvature times squared error; the curvature here is
        the empirical one of the outputs, as in Kim 2025, arXiv:2505.07004.
    """
    rows = as_rows(weight, found.axis)
    total = float(sum(counted.sum() for counted in influence))
    differences = []
    for grid in grids:
        scales = grid.scales(rows)
        differences.append(grid.round(rows, scales) * grid.spread(scales, rows.shape[1]) - rows)
    if found.layer.target is aten.embedding.default:
        return [_of_lookups(difference, inputs, influence) for difference in differences]
    hessians = hessians_of(found.layer, inputs, influence)
    if hessians is None:  # the error alone, at the size of the inputs
        size = float(
            torch.stack([data.float().square().mean() for data, *_ in inputs if isinstance(data, Tensor)]).mean()
        )
        return [total * size * float(difference.square().sum()) / len(rows) for difference in differences]
    return [
        total
        * sum(
            output_error(part, hessian) for part, hessian in zip(difference.chunk(len(hessians)), hessians, strict=True)
        )
        / len(rows)
        for difference in differences
    ]


def _of_lookups(difference: Tensor, inputs: list[tuple[object, ...]], influence: Sequence[Tensor]) -> float:
    cost = difference.square().mean(1)
    return float(
        sum(
            (cost[indices.reshape(-1)] * counted).sum()
            for (_, indices, *_), counted in zip(inputs, influence, strict=True)
            if isinstance(indices, Tensor)
        )
    )
