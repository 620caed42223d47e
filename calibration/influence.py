"""How much the program's outputs depend on each row of a layer's output: padding and idle positions not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.calibration.recomputed import gradients_at
from edgewright.pipeline.program import Program


class RowInfluence:
    """`row_influence`, found when it is first asked for and kept until `forget`: several steps of one pass need it."""

    def __init__(self, batches: Sequence[Mapping[str, Tensor]], seed: int) -> None:
        self._batches, self._seed = batches, seed
        self._known: dict[str, list[Tensor]] = {}
        self._asked: frozenset[str] = frozenset()

    def of(self, program: Program, layers: Iterable[Node]) -> dict[Node, list[Tensor]]:
        """For each layer and batch: float32, (rows,). No entry for layers that no gradient reaches."""
        layers = list(layers)
        names = frozenset(layer.name for layer in layers)
        if not names <= self._asked:
            found = row_influence(program, self._batches, layers, self._seed)
            self._known, self._asked = {layer.name: rows for layer, rows in found.items()}, names
        return {layer: self._known[layer.name] for layer in layers if layer.name in self._known}

    def forget(self) -> None:
        """The program computes other values now."""
        self._known, self._asked = {}, frozenset()


def row_influence(
    program: Program, batches: Sequence[Mapping[str, Tensor]], layers: Iterable[Node], seed: int
) -> dict[Node, list[Tensor]]:
    """For each layer and batch: the squared gradient of the outputs by each row, summed over the row's channels.

    The outputs are projected on random signs, whose expectation is the sum over all outputs (Hutchinson's estimate).
    Rows are what a layer's weight is multiplied with: tokens, or the places of an image.

    Returns:
        float32, (rows,); no entry for layers that no gradient reaches.
    Source: Kim 2025, arXiv:2505.07004 (GuidedQuant), equation 6, averaged over all output channels.
    """
    layers = frozenset(layers)
    generator = torch.Generator().manual_seed(seed)
    found: dict[Node, list[Tensor]] = {}
    for batch in batches:
        gradients_at(
            program,
            batch,
            layers,
            lambda output: torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1.0,
            lambda layer, gradient: found.setdefault(layer, []).append(_by_row(layer, gradient)),
        )
    whole = {layer: rows for layer, rows in found.items() if len(rows) == len(batches)}
    return {layer: rows for layer, rows in whole.items() if any(bool(row.any()) for row in rows)}


def _by_row(layer: Node, gradient: Tensor) -> Tensor:
    squared = gradient.detach().square()
    if layer.target in (torch.ops.aten.linear.default, torch.ops.aten.embedding.default):
        return squared.sum(-1).reshape(-1)
    return squared.sum(1).reshape(-1)  # (batch, channels, places)
