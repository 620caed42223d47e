"""The cheap statistics of a value: its least and greatest elements, their moving averages, mean and deviation."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Statistic(Protocol):
    """What is kept of a value while calibration data stream by: its size does not grow with the samples.

    `axis` is the kept one (the channels), or None for one figure over the whole tensor.
    """

    def __init__(self, axis: int | None = None) -> None: ...

    def update(self, values: Tensor) -> None:
        """Take in a finite tensor with at least one element."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything, by name: `load` gives back the same statistic."""
        ...

    def load(self, state: dict[str, Tensor]) -> None: ...


class Extremes:
    """The least and the greatest value: float32, shape () or (channels,); +inf and -inf before the first update.

    NaN stays in both once it was seen.
    """

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.low = torch.tensor(float("inf"))
        self.high = torch.tensor(float("-inf"))

    def update(self, values: Tensor) -> None:
        low, high = extremes_of(values, self.axis)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)

    def state(self) -> dict[str, Tensor]:
        return {"low": self.low, "high": self.high}

    def load(self, state: dict[str, Tensor]) -> None:
        self.low, self.high = state["low"], state["high"]


class Averages:
    """Moving averages of each batch's least and greatest values.

    m = m + c * (x - m), from the first batch's x on, with c = 0.01 as PyTorch has it.

    Source: Jacob 2018, arXiv:1712.05877, section 3.1.
    """

    RATE = 0.01

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def update(self, values: Tensor) -> None:
        low, high = extremes_of(values, self.axis)
        self.low = low if self.low is None else self.low + self.RATE * (low - self.low)
        self.high = high if self.high is None else self.high + self.RATE * (high - self.high)

    def state(self) -> dict[str, Tensor]:
        return {} if self.low is None or self.high is None else {"low": self.low, "high": self.high}

    def load(self, state: dict[str, Tensor]) -> None:
        self.low, self.high = state.get("low"), state.get("high")


class Moments:
    """Count, sum and sum of squares over the whole tensor, in float64: they give mean and standard deviation."""

    def __init__(self, axis: int | None = None) -> None:
        self.sums = (0.0, 0.0, 0.0)

    def update(self, values: Tensor) -> None:
        count, total, squares = self.sums
        norm = float(torch.linalg.vector_norm(values))
        self.sums = count + values.numel(), total + float(values.sum()), squares + norm * norm

    @property
    def deviation(self) -> float:
        """The standard deviation; 0.0 before the first update."""
        count, total, squares = self.sums
        return math.sqrt(max(0.0, squares / count - (total / count) ** 2)) if count else 0.0

    def state(self) -> dict[str, Tensor]:
        return {"sums": torch.tensor(self.sums, dtype=torch.float64)}

    def load(self, state: dict[str, Tensor]) -> None:
        count, total, squares = state["sums"].tolist()
        self.sums = count, total, squares


def extremes_of(values: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """Least and greatest value over all axes but `axis`: float32, shape () or (channels,)."""
    values = values.detach().float()
    if axis is None:
        low, high = torch.aminmax(values)
        return low, high
    others = [place for place in range(values.dim()) if place != axis % values.dim()]
    return (values.amin(others), values.amax(others)) if others else (values, values)
