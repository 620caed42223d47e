"""Run calibration batches through a graph and keep statistics of chosen nodes; memory does not grow with samples."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.calibration.side_by_side import SideBySide
from edgewright.pipeline.program import Program


class _Observing(torch.fx.Interpreter):
    def __init__(self, program: Program, nodes: frozenset[Node]) -> None:
        super().__init__(program.module)
        self.maxima: dict[Node, Tensor] = {}
        self._nodes = nodes

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self._nodes and result.is_floating_point() and result.dim():
            self.maxima[n] = result.detach().abs().reshape(-1, result.shape[-1]).amax(0)
        return result


class ChannelMaxima:
    """The largest magnitude of each channel (last axis) of the inputs and outputs of linear layers.

    All of them are found in one run over the data, when the first is asked for, and kept until `forget`.
    """

    def __init__(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        self._batches = batches
        self._known: dict[str, Tensor] = {}

    def of(self, program: Program, nodes: Iterable[Node]) -> dict[Node, Tensor]:
        """Of each node, over all batches: float32, shape (channels,). Empty without data."""
        nodes = list(nodes)
        if any(node.name not in self._known for node in nodes):
            self._known |= _collect(program, self._batches, {*nodes, *_around_layers(program)})
        return {node: self._known[node.name] for node in nodes if node.name in self._known}

    def forget(self) -> None:
        """The program computes other values now."""
        self._known.clear()


def _around_layers(program: Program) -> Iterator[Node]:
    for layer in program.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default):
        yield layer
        yield layer.all_input_nodes[0]


def _collect(program: Program, batches: Sequence[Mapping[str, Tensor]], nodes: Iterable[Node]) -> dict[str, Tensor]:
    maxima: dict[str, Tensor] = {}
    lock, observed = threading.Lock(), frozenset(nodes)

    def run(batch: Mapping[str, Tensor]) -> None:
        interpreter = _Observing(program, observed)
        interpreter.run(*(batch[spec.name] for spec in program.inputs))
        with lock:  # the largest of all is the same in any order
            for node, found in interpreter.maxima.items():
                known = maxima.get(node.name)
                maxima[node.name] = found if known is None else torch.maximum(known, found)

    SideBySide().run(run, batches)
    return maxima
