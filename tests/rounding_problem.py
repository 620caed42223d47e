"""Weights to round, with inputs to round them for."""

from __future__ import annotations

import torch
from torch import Tensor

from edgewright.pipeline.rounding.grid import Grid
from edgewright.pipeline.rounding.hessian import output_error


def problem(seed: int, rows: int = 24, columns: int = 64) -> tuple[Tensor, Tensor]:
    """A weight, and the covariance of inputs that are correlated and of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(4 * columns, columns // 2, generator=generator) @ torch.randn(
        columns // 2, columns, generator=generator
    )
    inputs = (mixed + torch.randn(4 * columns, columns, generator=generator)) * torch.rand(columns, generator=generator)
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / len(inputs)


def error(weight: Tensor, integers: Tensor, scales: Tensor, hessian: Tensor, grid: Grid) -> float:
    return output_error(integers * grid.spread(scales, weight.shape[1]) - weight, hessian)
