"""All batches through a graph together, and what the outputs owe to each row."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgewright as ew
from edgewright.calibration.influence import row_influence
from edgewright.calibration.lockstep import run_in_lockstep
from edgewright.pipeline.passes.graph import add_constant, aten
from edgewright.pipeline.program import Program

STORED = [{"pass": "quantize-weights", "bits": 8, "minimum_elements": 1}]


class Masked(nn.Module):
    """Two layers over tokens, of which a mask lets some reach the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x)))
        return (y * mask[..., None]).sum(1)


@pytest.fixture
def program() -> Program:
    torch.manual_seed(0)
    return ew.capture(Masked().eval(), (torch.randn(1, 6, 8), torch.ones(1, 6)))


def batches(count: int = 3) -> list[dict[str, Tensor]]:
    mask = torch.tensor([[1.0, 1, 1, 0, 0, 0]])
    return [{"x": torch.randn(1, 6, 8), "mask": mask} for _ in range(count)]


def layers(program: Program) -> list[Any]:
    return list(program.graph.find_nodes(op="call_function", target=aten.linear.default))


def test_a_visit_sees_what_a_plain_run_gives(program: Program) -> None:
    given = batches()
    seen: list[Tensor] = []
    run_in_lockstep(program, given, {layers(program)[1]: lambda inputs: seen.extend(row for row, *_ in inputs)})
    weight, bias = (program.module.get_parameter(f"first.{name}") for name in ("weight", "bias"))
    for batch, found in zip(given, seen, strict=True):
        torch.testing.assert_close(found, torch.relu(F.linear(batch["x"], weight, bias)))


def test_a_layer_that_a_visit_changed_is_what_later_visits_see(program: Program) -> None:
    first, second = layers(program)
    seen: list[Tensor] = []

    def silence(inputs: list[tuple[Any, ...]]) -> None:
        for place in (1, 2):
            first.update_arg(
                place, add_constant(program, "zero", torch.zeros_like(program.tensor(first.args[place])), first)
            )

    run_in_lockstep(program, batches(), {first: silence, second: lambda inputs: seen.extend(row for row, *_ in inputs)})
    assert len(seen) == 3
    assert not any(bool(row.any()) for row in seen)


def test_what_is_made_of_constants_alone_is_computed_once_for_all_batches(program: Program) -> None:
    quantized = ew.compress(program, STORED).program
    weights: list[Tensor] = []
    (layer, *_) = quantized.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    run_in_lockstep(quantized, batches(), {layer: lambda inputs: weights.extend(weight for _, weight, *_ in inputs)})
    assert len(weights) == 3
    assert all(weight is weights[0] for weight in weights)


def test_a_restored_weight_is_gone_when_its_layer_has_run(program: Program) -> None:
    quantized = ew.compress(program, STORED).program
    first, second = quantized.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    restored: list[weakref.ref[Tensor]] = []
    still: list[bool] = []
    gc.disable()  # not only when cycles are collected
    try:
        run_in_lockstep(
            quantized,
            batches(),
            {
                first: lambda inputs: restored.append(weakref.ref(inputs[0][1])),
                second: lambda inputs: still.append(restored[0]() is not None),
            },
        )
    finally:
        gc.enable()
    assert still == [False]


def test_rows_that_no_output_reads_count_nothing(program: Program) -> None:
    found = row_influence(program, batches(), layers(program), seed=0)
    assert set(found) == set(layers(program))
    for rows in found.values():
        assert [row.shape for row in rows] == [(6,)] * 3
        assert all(not bool(row[3:].any()) for row in rows)
        assert bool(torch.cat(rows).any())


def test_the_weights_get_no_gradients() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))  # parameters that ask for some
    traced = ew.capture(model, {"input": torch.randn(1, 4)})
    assert row_influence(traced, [{"input": torch.randn(1, 4)}], layers(traced), seed=0)
    assert all(tensor.grad is None for tensor in traced.tensors().values())


def test_influence_is_the_same_for_the_same_seed(program: Program) -> None:
    given = batches()
    one, two, other = (row_influence(program, given, layers(program), seed) for seed in (0, 0, 1))
    last = layers(program)[1]
    assert all(torch.equal(a, b) for a, b in zip(one[last], two[last], strict=True))
    first = layers(program)[0]
    assert not all(torch.equal(a, b) for a, b in zip(one[first], other[first], strict=True))


def test_layers_behind_integers_have_no_influence(program: Program) -> None:
    quantized = ew.compress(program, [{"pass": "quantize", "scheme": "w8a8"}], batches=batches()).program
    assert row_influence(quantized, batches(), layers(quantized)[:1], seed=0) == {}
