"""Round column by column, and let the columns that follow make up for the error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgewright.pipeline.rounding.grid import Grid
from edgewright.pipeline.rounding.refit import refit_scales

BLOCK = 128  # columns whose updates of the rest are put off, so that they are one product
MOST_DAMPING = 10.0


@dataclass(frozen=True)
class Gptq:
    """The settings.

    Args:
        damping: added to the diagonal, as a share of its mean.
        refits: how often the scales are fitted to the integers and the integers found anew.
        act_order: the columns that the inputs excite most come first, while there are many left to make up for them.
    """

    damping: float = 0.1
    act_order: bool = True
    refits: int = 1

    def round(self, weight: Tensor, hessian: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Integers and scales of a weight.

        For each column i: q_i = round(w_i / s), e = (w_i - s q_i) / U_ii, and w_j -= e U_ij for j > i, with U the upper
        Cholesky factor of the inverse of H. Scales are found before, so that groups stay in place whatever the order.

        Args:
            weight: float32, (rows, columns), finite.
            hessian: float32, (columns, columns), of `hessian_of`.
        Returns:
            int8, (rows, columns); float32, (rows, columns / group).
        Source: Frantar 2023, arXiv:2210.17323, algorithm 1; the order from its reference implementation.
        """
        diagonal = torch.diagonal(hessian)
        order = torch.argsort(diagonal, descending=True) if self.act_order else torch.arange(len(diagonal))
        factor = self._factor(hessian[order][:, order])
        scales = grid.scales(weight, diagonal.clamp(min=1e-12))
        integers = _round(weight, scales, order, factor, grid)
        for _ in range(self.refits):
            scales = refit_scales(weight, integers, scales, hessian, grid)
            integers = _round(weight, scales, order, factor, grid)
        return integers, (refit_scales(weight, integers, scales, hessian, grid) if self.refits else scales)

    def _factor(self, hessian: Tensor) -> Tensor:
        """U with U^T U = (H + damping)^-1; more damping where H is too near singular for float32."""
        mean = float(torch.diagonal(hessian).mean()) or 1.0
        dead = torch.diagonal(hessian) == 0
        damping = self.damping
        while damping <= MOST_DAMPING:
            damped = hessian.clone()
            damped.diagonal().add_(damping * mean)
            damped.diagonal()[dead] += mean
            lower, failed = torch.linalg.cholesky_ex(damped)
            if not int(failed):
                upper: Tensor
                upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
                if not int(failed):
                    return upper
            damping *= 10
        raise ArithmeticError(f"the inputs' covariance has no Cholesky factor, even with damping {damping / 10}")


def _round(weight: Tensor, scales: Tensor, order: Tensor, factor: Tensor, grid: Grid) -> Tensor:
    spread = grid.spread(scales, weight.shape[1])
    # Transposed, a column lies in one piece of memory.
    work, steps_of = weight.T[order].contiguous(), spread.T[order].contiguous()
    integers = torch.empty(work.shape, dtype=torch.int8)
    for start in range(0, len(work), BLOCK):
        end = min(start + BLOCK, len(work))
        block, inner = work[start:end], factor[start:end, start:end]
        for place, value in enumerate(block):
            scale = steps_of[start + place]
            rounded = torch.clamp(torch.round(value / scale), grid.lowest, grid.highest)
            integers[start + place] = rounded
            error = value.sub(rounded.mul_(scale)).div_(inner[place, place])
            block[place + 1 :].addr_(inner[place, place + 1 :], error, alpha=-1.0)
            value.copy_(error)  # the column is done: its error takes its place
        work[end:].addmm_(factor[start:end, end:].T, block, alpha=-1.0)
    back = torch.argsort(order)
    return integers[back].T.contiguous()
