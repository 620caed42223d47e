"""Learn for each weight whether it is rounded up or down (AdaRound)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgewright.pipeline.memory import give_back_freed
from edgewright.pipeline.rounding.grid import Grid
from edgewright.pipeline.rounding.refit import refit_scales

STRETCH, SHIFT = 1.2, -0.1  # of the sigmoid, so that its ends are reached
RATE = 0.02
ROWS = 256  # at once: a dozen copies of them are at work
FIRST_DECAY, SECOND_DECAY = 0.9, 0.99  # of Adam's moments
FREE = 0.2  # share of the steps without pull to 0 and 1
STEEPEST, FLATTEST = 20.0, 2.0


@dataclass(frozen=True)
class AdaRound:
    """The settings.

    Args:
        steps: of gradient descent.
        pull: how strongly roundings are drawn to up or down in the end, beside the error at the output.
    """

    steps: int = 500
    pull: float = 30.0

    def round(self, weight: Tensor, hessian: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Integers and scales of a weight.

        Minimizes tr(D H D^T) / e + pull * mean(1 - |2h - 1|^b) over V, with h = clamp(1.2 sigmoid(V) - 0.1, 0, 1),
        D = s * (floor(w / s) + h) - w, e the error of the nearest integers, and b falling from 20 to 2. Scales are
        searched before and fitted to the integers behind. H stands for the data: the descent sees all of it in each
        step. A row that came out no better than its nearest integers gets these.

        Args:
            weight: float32, (rows, columns), finite.
            hessian: float32, (columns, columns), of `hessian_of`.
        Returns:
            int8, (rows, columns); float32, (rows, columns / group).
        Source: Nagel 2020, arXiv:2004.10568, equations 21 to 24 (without the activation function behind the layer).
        """
        scales = grid.scales(weight, torch.diagonal(hessian).clamp(min=1e-12))
        integers = grid.round(weight, scales)
        parts = [slice(start, start + ROWS) for start in range(0, len(weight), ROWS)]
        nearest = [_row_errors(weight[part], integers[part], scales[part], hessian, grid) for part in parts]
        unit = float(torch.cat(nearest).sum()) / weight.numel() or 1.0
        for part, error in zip(parts, nearest, strict=True):
            learned = self._learn(weight[part], scales[part], hessian, grid, unit)
            better = _row_errors(weight[part], learned, scales[part], hessian, grid) < error
            integers[part] = torch.where(better[:, None], learned, integers[part])
        give_back_freed(hessian.nbytes)
        return integers, refit_scales(weight, integers, scales, hessian, grid)

    def _learn(self, weight: Tensor, scales: Tensor, hessian: Tensor, grid: Grid, unit: float) -> Tensor:
        """The integers of some rows; `unit` is the error of the nearest ones at the output, a weight of all rows."""
        spread = grid.spread(scales, weight.shape[1])
        exact = weight / spread
        lower = exact.floor().clamp(grid.lowest, grid.highest - 1)
        part = (exact - lower).clamp(0.0, 1.0)
        logits = torch.logit(((part - SHIFT) / STRETCH).clamp(1e-4, 1 - 1e-4))
        moment, square = torch.zeros_like(logits), torch.zeros_like(logits)
        for step in range(1, self.steps + 1):
            sigmoid = torch.sigmoid(logits)
            up = (sigmoid * STRETCH + SHIFT).clamp_(0.0, 1.0)
            gradient = ((lower + up) * spread - weight) @ hessian
            gradient.mul_(spread).mul_(2 / unit)
            progress = (step / self.steps - FREE) / (1 - FREE)
            if progress > 0:
                power = STEEPEST + (FLATTEST - STEEPEST) * progress
                centred = up * 2 - 1
                gradient -= self.pull * 2 * power * centred.sign() * centred.abs().pow(power - 1)
            gradient.mul_(sigmoid * (1 - sigmoid) * STRETCH)
            moment.lerp_(gradient, 1 - FIRST_DECAY)
            square.lerp_(gradient.square(), 1 - SECOND_DECAY)
            corrected = square / (1 - SECOND_DECAY**step)
            logits -= RATE * (moment / (1 - FIRST_DECAY**step)) / (corrected.sqrt() + 1e-8)
        return (lower + (logits > 0)).to(torch.int8)


def _row_errors(weight: Tensor, integers: Tensor, scales: Tensor, hessian: Tensor, grid: Grid) -> Tensor:
    difference = integers * grid.spread(scales, weight.shape[1]) - weight
    return ((difference @ hessian) * difference).sum(1)
