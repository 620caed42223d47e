"""Fit the scales of a rounded weight to its integers."""

from __future__ import annotations

import torch
from torch import Tensor

from edgewright.pipeline.rounding.grid import Grid

RIDGE = 1e-3
CHUNK = 1 << 21  # numbers in memory at once: what fits the processor's cache


def refit_scales(weight: Tensor, integers: Tensor, scales: Tensor, hessian: Tensor, grid: Grid) -> Tensor:
    """The scales with the least error at the output: for each row, of (w - sum_g s_g q_g) H (w - sum_g s_g q_g).

    That is a linear system a row, with a small pull to the scales that there were; where it gives no positive scale,
    the old one stays.

    Args:
        weight: float32, (rows, columns); integers: int8, the same; scales: float32, (rows, groups), > 0;
            hessian: float32, (columns, columns).
    Returns:
        float32, (rows, groups), > 0.
    Source: least squares, as in the scale estimation of the Neural Network Compression Framework and Lin 2024,
        arXiv:2306.00978, which search instead.
    """
    rows, columns = weight.shape
    groups = scales.shape[1]
    width = columns // groups
    blocks = hessian.reshape(groups, width, columns)
    chunk = max(1, CHUNK // (groups * columns))
    found = []
    for start in range(0, rows, chunk):
        part = slice(start, start + chunk)
        steps = integers[part].float().reshape(-1, groups, width)
        reached = torch.einsum("rgw,gwc->rgc", steps, blocks)
        matrix = (reached.reshape(-1, groups, groups, width) * steps[:, None]).sum(3)
        right = (reached * weight[part][:, None]).sum(2)
        pull = RIDGE * torch.diagonal(matrix, dim1=1, dim2=2).mean(1, keepdim=True).clamp(min=1e-30)
        matrix = matrix + torch.diag_embed(pull.expand(-1, groups))
        solved = torch.linalg.solve(matrix, right + pull * scales[part])
        found.append(torch.where(solved > 0, solved, scales[part]))
    return torch.cat(found)
