"""A symmetric matrix that lends its lower triangle to a Cholesky factor, so that both take the memory of one."""

from __future__ import annotations

import torch
from torch import Tensor

PANEL = 128  # columns that are factored at once
MOVED = 32  # rows that are moved at once: each number takes two indices


def factor_below(matrix: Tensor, order: Tensor, added: Tensor) -> Tensor | None:
    """Put L with L L^T = (M + diag(added))[order][:, order] below the diagonal of M; what is above it stays.

    Args:
        matrix: float32, (n, n), symmetric; order: int64, (n,), a permutation; added: float32, (n,).
    Returns:
        the diagonal of L, float32, (n,); None where there is no such L. `restore_below` gives the matrix back.
    Source: Golub, Van Loan, Matrix Computations, section 4.2.9 (the factor by block columns).
    """
    count = len(matrix)
    diagonal = (torch.diagonal(matrix) + added)[order]
    for start in range(0, count, MOVED):
        end = start + MOVED
        rows, columns = order[start:end, None], order[None, :end]
        moved = matrix[torch.minimum(rows, columns), torch.maximum(rows, columns)]  # of M's diagonal and above it
        matrix[start:end, :start] = moved[:, :start]
        _put_below(matrix[start:end, start:end], moved[:, start:])
    pivots = torch.empty_like(diagonal)
    for start in range(0, count, PANEL):
        end = min(start + PANEL, count)
        corner, before = matrix[start:end, start:end], matrix[start:end, :start]
        symmetric = corner.tril(-1) + corner.tril(-1).T + torch.diag(diagonal[start:end])
        lower, failed = torch.linalg.cholesky_ex(symmetric.addmm_(before, before.T, alpha=-1.0))
        if int(failed):
            return None
        pivots[start:end] = torch.diagonal(lower)
        _put_below(corner, lower)
        below = matrix[end:, start:end].addmm_(matrix[end:, :start], before.T, alpha=-1.0)
        below.copy_(torch.linalg.solve_triangular(lower.T, below, upper=True, left=False))
    return pivots


def restore_below(matrix: Tensor) -> None:
    """Make the matrix symmetric again, from what is above its diagonal."""
    for start in range(0, len(matrix), PANEL):
        end = start + PANEL
        matrix[end:, start:end] = matrix[start:end, end:].T
        corner = matrix[start:end, start:end]
        _put_below(corner, corner.T.clone())


def _put_below(block: Tensor, values: Tensor) -> None:
    """Overwrite what is below the diagonal of a square block."""
    below = torch.ones(block.shape, dtype=torch.bool).tril_(-1)
    block.copy_(torch.where(below, values, block))
