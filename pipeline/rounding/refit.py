"""Fit the scales of a rounded weight to its integers."""

from __future__ import annotations

import torch
from torch import Tensor

from edgewright.pipeline.memory import give_back_freed
from edgewright.pipeline.rounding.grid import Grid

RIDGE = 1e-3
CHUNK = 1 << 18  # numbers in memory at once: what fits the processor's cache
ROWS = 64  # at once: each time the hessian is read once more


def refit_scales(weight: Tensor, integers: Tensor, scales: Tensor, hessian: Tensor, grid: Grid) -> Tensor:
    """The scales with the least error at the output: for each row, of (w - sum_g s_g q_g) H (w - sum_g s_g q_g).

    That is a linear system a row, with a small pull to the scales that there were; where it gives a scale of
    another sign, the old one stays. They are rounded as the grid stores them.

    Args:
        weight: float32, (rows, columns); integers: int8, the same; scales: float32, (rows, groups), not 0;
            hessian: float32, (columns, columns), symmetric.
    Returns:
        float32, (rows, groups), of the signs of `scales`.
    Source: least squares, as in the scale estimation of the Neural Network Compression Framework and Lin 2024,
        arXiv:2306.00978, which search instead.
    """
    rows, columns = weight.shape
    groups = scales.shape[1]
    width = columns // groups
    panel = width * max(1, CHUNK // (ROWS * groups * width))
    found = scales.clone()  # written to piece by piece: small pieces between large ones would keep the memory of these
    for start in range(0, rows, ROWS):
        part = slice(start, start + ROWS)
        steps = integers[part].float().reshape(-1, groups, width)
        matrix = _products(steps, hessian, panel)
        right = (weight[part] @ hessian).reshape(steps.shape).mul_(steps).sum(2)
        pull = RIDGE * torch.diagonal(matrix, dim1=1, dim2=2).mean(1, keepdim=True).clamp(min=1e-30)
        matrix.diagonal(dim1=1, dim2=2).add_(pull)
        solved = torch.linalg.solve(matrix, right + pull * scales[part])
        found[part] = torch.where(solved * scales[part] > 0, solved, scales[part])
        give_back_freed(hessian.nbytes)
    return grid.storable(found)


def _products(steps: Tensor, hessian: Tensor, panel: int) -> Tensor:
    """q_g H q_h for each two groups g and h of a row: (rows, groups, groups). Those with g <= h are computed."""
    rows, groups, width = steps.shape
    blocks = hessian.reshape(groups, width, -1)
    found = torch.zeros(rows, groups, groups)
    for start in range(0, groups * width, panel):
        columns = slice(start, start + panel)
        after = slice(start // width, min((start + panel) // width, groups))
        reached = torch.einsum("rgw,gwc->rgc", steps[:, : after.stop], blocks[: after.stop, :, columns])
        weighed = reached.view(rows, after.stop, -1, width).mul_(steps[:, None, after])
        found[:, : after.stop, after] = weighed.sum(3)
    return found.triu_().add_(found.triu(1).mT)
