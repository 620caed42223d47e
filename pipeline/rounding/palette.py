"""Palettes: weights as indices into tables of a few values that fit them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgewright.pipeline.rounding.kmeans import cluster


@dataclass(frozen=True)
class Palette:
    """Tables of 2**bits values, one for each `group` rows of a weight; group 0: one for all of them.

    Source: Han 2016, arXiv:1510.00149, section 3; columns weighted by what their inputs make of an error as in
        SqueezeLLM, Kim 2023, arXiv:2306.07629, section 4.1.
    """

    bits: int
    group: int = 0

    def tables(self, rows: Tensor, importance: Tensor | None = None) -> Tensor:
        """The values with the least squared error: float32, (groups, 2**bits), ascending.

        Args:
            rows: float32, (rows, columns); `group` divides the rows.
            importance: float32, (columns,): how much an error in each column counts; None: all the same.
        """
        grouped = rows.reshape(len(rows) // (self.group or len(rows)), -1)
        weights = None
        if importance is not None:
            weights = importance.expand(grouped.shape[0], -1).repeat(1, grouped.shape[1] // len(importance)).numpy()
        return torch.from_numpy(cluster(grouped.numpy(), 2**self.bits, weights))

    def indices(self, rows: Tensor, tables: Tensor) -> Tensor:
        """The nearest value of each weight's table: uint8, shaped like `rows`."""
        grouped = rows.reshape(len(tables), -1)
        borders = (tables[:, 1:] + tables[:, :-1]) / 2
        found = [torch.bucketize(part, limits, out_int32=True) for part, limits in zip(grouped, borders, strict=True)]
        return torch.stack([part.to(torch.uint8) for part in found]).reshape(rows.shape)
