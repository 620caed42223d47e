"""LSTM and GRU layers, spelled out: the same numbers, and linear layers that can be quantized."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from edgewright.pipeline.capture import capture
from edgewright.pipeline.compress import compress
from edgewright.pipeline.low_precision import low_precision_share
from edgewright.pipeline.passes.graph import aten
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.passes.unroll_recurrence import UnrollRecurrence
from edgewright.pipeline.program import Program

STEPS, FEATURES, HIDDEN = 4, 5, 7
FORMS = [
    (kind, *form)
    for kind in (nn.LSTM, nn.GRU)
    for form in itertools.product((True, False), (True, False), (True, False))
]


class Recurrent(nn.Module):
    """Two layers; the outputs of all steps and every last state are results."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], batch_first: bool, both: bool, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = kind(FEATURES, HIDDEN, 2, batch_first=batch_first, bidirectional=both, bias=bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs, states = self.layer(x)
        return outputs, *(states if isinstance(states, tuple) else (states,))


def program_of(module: nn.Module, *shape: int) -> Program:
    return capture(module.eval(), (torch.randn(shape),))


@pytest.mark.parametrize(("kind", "batch_first", "both", "bias"), FORMS)
def test_unrolled_layers_give_the_outputs_and_states_of_the_layer(
    kind: type[nn.LSTM | nn.GRU], batch_first: bool, both: bool, bias: bool
) -> None:
    program = program_of(Recurrent(kind, batch_first, both, bias), 3, STEPS, FEATURES)
    result = run_passes(program, [UnrollRecurrence()])
    assert result.reports[0].report.rewrites == 1
    assert not {aten.lstm.input, aten.gru.input} & {node.target for node in result.program.graph.nodes}
    inputs = {"x": torch.randn(3, STEPS, FEATURES, generator=torch.Generator().manual_seed(1))}
    expected, found = program.run(inputs), result.program.run(inputs)
    assert len(expected) == (3 if kind is nn.LSTM else 2)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_the_input_s_part_is_one_layer_for_all_steps() -> None:
    program = run_passes(program_of(Recurrent(nn.GRU, True, False, True), 1, STEPS, FEATURES), [UnrollRecurrence()])
    linear = program.program.graph.find_nodes(op="call_function", target=aten.linear.default)
    assert len(linear) == 2 * (1 + STEPS)


def test_a_long_sequence_is_left_alone_with_the_reason() -> None:
    program = program_of(Recurrent(nn.LSTM, True, False, True), 1, 20, FEATURES)
    result = run_passes(program, [UnrollRecurrence(most_steps=19)])
    assert result.program.digest() == program.digest()
    assert [skip.reason for skip in result.reports[0].report.skips] == ["its sequence has 20 steps, more than 19"]


def test_projected_states_are_left_alone_with_the_reason() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(FEATURES, HIDDEN, proj_size=3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[0]

    result = run_passes(program_of(Projected(), 1, STEPS, FEATURES), [UnrollRecurrence()])
    assert "projected" in result.reports[0].report.skips[0].reason


def test_a_quantized_recurrent_layer_multiplies_in_integers_and_stores_its_weights_once() -> None:
    program = program_of(Recurrent(nn.GRU, True, False, True), 1, STEPS, FEATURES)
    batches = [{"x": torch.randn(1, STEPS, FEATURES)} for _ in range(8)]
    quantized = compress(program, [{"pass": "quantize", "scheme": "w8a8"}], batches=batches).program
    assert low_precision_share(quantized) == 1.0
    weights = 3 * HIDDEN * (FEATURES + HIDDEN + HIDDEN + HIDDEN)
    first_states = 2 * HIDDEN  # constants that a linear layer reads
    assert quantized.weight_bytes()["int8"] == weights + first_states
