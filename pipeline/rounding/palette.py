"""Palettes: weights as indices into tables of a few values that fit them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgewright.pipeline.rounding.kmeans import cluster
from edgewright.pipeline.rounding.kmeans_vectors import cluster_vectors, nearest


@dataclass(frozen=True)
class Palette:
    """Tables of 2**bits entries, one table for each `group` rows of a weight; group 0: one for all of them.

    An entry is `vector` numbers, for as many weights that lie side by side among a row's inputs. Of a convolution with
    k places in a kernel, a row holds k numbers an input: they are `inner` numbers apart, k = inner.

    Source: Han 2016, arXiv:1510.00149, section 3; columns weighted by what their inputs make of an error as in
        SqueezeLLM, Kim 2023, arXiv:2306.07629, section 4.1; vectors: Stock 2019, arXiv:1907.05686.
    """

    bits: int
    group: int = 0
    vector: int = 1
    inner: int = 1

    def tables(self, rows: Tensor, importance: Tensor | None = None, seed: int = 0) -> Tensor:
        """The entries with the least squared error: float32, (groups, 2**bits, vector).

        Args:
            rows: float32, (rows, columns); `group` divides the rows, `vector` * `inner` the columns.
            importance: float32, (columns,): how much an error in each column counts; None: all the same.
            seed: of the starts for vectors; single values need none, and ascend in their table.
        """
        if self.vector == 1:
            return self._values(rows, importance, self.bits)[..., None]
        even = torch.ones(rows.shape[1]) if importance is None else importance
        weights = self._vectors(even.expand_as(rows))
        return torch.stack(
            [
                cluster_vectors(part, scale, self._starts(part, scale), 2**self.bits, seed)
                for part, scale in zip(self._grouped(rows), weights.chunk(self._groups(rows)), strict=True)
            ]
        )

    def indices(self, rows: Tensor, tables: Tensor) -> Tensor:
        """The nearest entry of each weight's table: uint8, (rows, columns / vector)."""
        if self.vector == 1:
            grouped = rows.reshape(len(tables), -1)
            borders = (tables[:, 1:, 0] + tables[:, :-1, 0]) / 2
            found = [
                torch.bucketize(part, limits, out_int32=True) for part, limits in zip(grouped, borders, strict=True)
            ]
        else:
            parts = zip(self._grouped(rows), tables, strict=True)
            found = [nearest(part, torch.ones_like(part), table)[0] for part, table in parts]
        return torch.stack([part.to(torch.uint8) for part in found]).reshape(len(rows), -1)

    def _groups(self, rows: Tensor) -> int:
        return len(rows) // (self.group or len(rows))

    def _vectors(self, rows: Tensor) -> Tensor:
        """(number, vector), row by row, in the order of the indices."""
        apart = rows.reshape(len(rows), -1, self.vector, self.inner)
        return apart.movedim(2, 3).reshape(-1, self.vector)

    def _grouped(self, rows: Tensor) -> tuple[Tensor, ...]:
        return self._vectors(rows).chunk(self._groups(rows))

    def _values(self, rows: Tensor, importance: Tensor | None, bits: int) -> Tensor:
        grouped = rows.reshape(self._groups(rows), -1)
        weights = None
        if importance is not None:
            weights = importance.expand(len(grouped), -1).repeat(1, grouped.shape[1] // len(importance)).numpy()
        return torch.from_numpy(cluster(grouped.numpy(), 2**bits, weights))

    def _starts(self, vectors: Tensor, weights: Tensor) -> list[Tensor]:
        """All combinations of the best single values, where that gives as many entries: never worse than those."""
        if self.bits % self.vector:
            return []
        values = cluster(
            vectors.reshape(1, -1).numpy(), 2 ** (self.bits // self.vector), weights.reshape(1, -1).numpy()
        )
        return [torch.cartesian_prod(*[torch.from_numpy(values[0])] * self.vector).reshape(-1, self.vector)]
