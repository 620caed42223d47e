"""Gradients a segment at a time are those of one run through the whole graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import edgewright as ew
from edgewright.calibration.recomputed import gradients_at
from edgewright.pipeline.passes.layer_weights import layer_weights


class Branching(nn.Module):
    """Values that are read far behind, operations with several results, and an output of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first = nn.Embedding(5, 8), nn.Linear(8, 12)
        self.middle, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one, two, three = self.first(x + self.table(index)).split(4, -1)
        y = one
        for _ in range(12):
            y = torch.tanh(y) * 1.1 + two
        largest, places = torch.max(self.middle(y), -1)
        return self.last(y) + three * largest[..., None], places, self.middle(three)


def test_gradients_by_segments_are_those_of_one_run() -> None:
    torch.manual_seed(0)
    model = Branching().eval()
    batch = {"x": torch.randn(2, 6, 8), "index": torch.randint(0, 5, (2, 6))}
    program = ew.capture(model, batch)
    layers = [found.layer for found in layer_weights(program)]
    found: dict[str, Tensor] = {}
    gradients_at(program, batch, layers, torch.ones_like, lambda node, gradient: found.update({node.name: gradient}))

    class Watched(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            result = super().run_node(n)
            if n in layers:
                result.retain_grad()
                values[n.name] = result
            return result

    values: dict[str, Tensor] = {}
    outputs = Watched(program.module).run(*batch.values())
    torch.autograd.backward(sum(value.sum() for value in outputs if value.is_floating_point()))
    assert set(found) == set(values) == {layer.name for layer in layers}
    assert len(layers) == 5, "a layer that is called twice counts twice"
    for name, value in values.items():
        torch.testing.assert_close(found[name], value.grad)


def test_the_last_of_the_nodes_comes_first() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(9)))
    program = ew.capture(model, (torch.randn(1, 4),))
    layers = [found.layer for found in layer_weights(program)]
    seen: list[str] = []
    batch = {program.inputs[0].name: torch.randn(1, 4)}
    gradients_at(program, batch, layers, torch.ones_like, lambda node, gradient: seen.append(node.name))
    assert seen == [layer.name for layer in reversed(layers)]
