"""Round column by column, and let the columns that follow make up for the error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgewright.pipeline.memory import give_back_freed
from edgewright.pipeline.rounding.borrowed_triangle import factor_below, restore_below
from edgewright.pipeline.rounding.grid import Grid
from edgewright.pipeline.rounding.refit import refit_scales

BLOCK = 128  # columns that hear of the errors of all before in one product
ROWS = 256  # at once: a copy of them is at work
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

        For each column i: q_i = round((w_i + sum_k e_k L_ki / L_ii) / s) with e_k = w_k - s q_k of the columns k before
        it, and L L^T = H with the columns in reverse order: what the inverse of H gives, without it. Scales are found
        before, so that groups stay in place whatever the order. The lower triangle of H holds L meanwhile.

        Args:
            weight: float32, (rows, columns), finite.
            hessian: float32, (columns, columns), of `hessian_of`.
        Returns:
            int8, (rows, columns); float32, (rows, columns / group).
        Source: Frantar 2023, arXiv:2210.17323, algorithm 1; the order from its reference implementation; the form
            without the inverse: Chee 2023, arXiv:2307.13304, theorem 6.
        """
        diagonal = torch.diagonal(hessian)
        order = torch.argsort(diagonal, descending=True) if self.act_order else torch.arange(len(diagonal))
        scales = grid.scales(weight, diagonal.clamp(min=1e-12))
        integers = self._round(weight, scales, hessian, order, grid)
        for _ in range(self.refits):
            scales = refit_scales(weight, integers, scales, hessian, grid)
            del integers  # as large as a quarter of the weight
            integers = self._round(weight, scales, hessian, order, grid)
        return integers, (refit_scales(weight, integers, scales, hessian, grid) if self.refits else scales)

    def _round(self, weight: Tensor, scales: Tensor, hessian: Tensor, order: Tensor, grid: Grid) -> Tensor:
        give_back_freed(hessian.nbytes)
        last_first = order.flip(0)
        pivots = self._factor(hessian, last_first)
        integers = torch.empty(weight.shape, dtype=torch.int8)
        for start in range(0, len(weight), ROWS):
            part = slice(start, start + ROWS)
            _round_columns(weight[part], scales[part], hessian, pivots, last_first, grid, integers[part])
            give_back_freed(hessian.nbytes)
        restore_below(hessian)
        give_back_freed(hessian.nbytes)
        return integers

    def _factor(self, hessian: Tensor, order: Tensor) -> Tensor:
        """`factor_below` of H + damping; more damping where H is too near singular for float32."""
        diagonal = torch.diagonal(hessian)
        mean = float(diagonal.mean()) or 1.0
        damping = self.damping
        while damping <= MOST_DAMPING:
            pivots = factor_below(hessian, order, damping * mean + mean * (diagonal == 0))
            if pivots is not None:
                return pivots
            damping *= 10
        raise ArithmeticError(f"the inputs' covariance has no Cholesky factor, even with damping {damping / 10}")


def _round_columns(
    weight: Tensor, scales: Tensor, factor: Tensor, pivots: Tensor, order: Tensor, grid: Grid, integers: Tensor
) -> None:
    """Fill `integers`, from the last column of `order` to its first; `pivots` is the diagonal of `factor`."""
    width = grid.width(weight.shape[1])
    work = weight.T[order]  # transposed, a column lies in one piece of memory; done ones hold their errors
    for end in range(len(work), 0, -BLOCK):
        start = max(0, end - BLOCK)
        columns = order[start:end]
        block, steps, inner = work[start:end], scales.T[columns // width], factor[start:end, start:end]
        owed = factor[end:, start:end].T @ work[end:]
        for place in range(end - start - 1, -1, -1):
            value, scale, due = block[place], steps[place], owed[place]
            rounded = due.div_(pivots[start + place]).add_(value).div_(scale).round_()
            value.addcmul_(rounded.clamp_(grid.lowest, grid.highest), scale, value=-1.0)  # the column is done
            owed[:place].addr_(inner[place, :place], value)
        integers[:, columns] = owed.T.to(torch.int8)
