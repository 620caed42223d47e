"""Run calibration batches through a graph and keep statistics of chosen nodes; memory does not grow with samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.program import Program


class _Observing(torch.fx.Interpreter):
    def __init__(self, program: Program, nodes: Iterable[Node]) -> None:
        super().__init__(program.module)
        self.maxima: dict[Node, Tensor] = {}
        self._nodes = frozenset(nodes)

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self._nodes:
            found = result.detach().abs().reshape(-1, result.shape[-1]).amax(0)
            known = self.maxima.get(n)
            self.maxima[n] = found if known is None else torch.maximum(known, found)
        return result


def channel_maxima(
    program: Program, batches: Sequence[Mapping[str, Tensor]], nodes: Iterable[Node]
) -> dict[Node, Tensor]:
    """The largest magnitude of each channel (last axis) of each node, over all batches: float32, shape (channels,)."""
    interpreter = _Observing(program, nodes)
    with torch.no_grad():
        for batch in batches:
            interpreter.run(*(batch[spec.name] for spec in program.inputs))
    return interpreter.maxima
