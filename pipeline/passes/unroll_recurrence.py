"""Spell LSTM and GRU layers out, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import aten, insert_call, value_of
from edgewright.pipeline.program import Program

LSTM, GRU = aten.lstm.input, aten.gru.input
Call = Callable[..., Node]
State = tuple[Node, ...]


@dataclass(frozen=True)
class UnrollRecurrence:
    """Given: lstm(x, (h0, c0), weights). Result: one linear over all of x, then a linear and its gates for each step.

    Core ML has no recurrent layer from an exported graph, and the weights of one are hidden from every annotator: as
    linear layers they are quantized like all others. The input's part of the gates is computed for all steps at once.

    Args:
        most_steps: longer sequences are left alone: the graph grows with each step.
    Source: the equations of torch.nn.LSTM and torch.nn.GRU.
    """

    name: ClassVar[str] = "unroll-recurrence"
    runs_after: ClassVar[tuple[str, ...]] = ()
    most_steps: int = 128

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites, skips = 0, []
        for node in list(program.graph.nodes):
            if node.target not in (LSTM, GRU):
                continue
            reason = self._obstacle(node)
            if reason:
                skips.append(Skip(node.name, reason))
                continue
            _unroll(node, partial(insert_call, program, node))
            rewrites += 1
        return PassReport(rewrites, tuple(skips))

    def _obstacle(self, node: Node) -> str:
        data, _, weights, has_biases, layers, _, train, both, batch_first = node.args
        assert isinstance(data, Node) and isinstance(weights, Sequence) and isinstance(layers, int), "by schema"
        steps = value_of(data).shape[1 if batch_first else 0]
        if not isinstance(steps, int) or steps > self.most_steps:
            return f"its sequence has {steps} steps, more than {self.most_steps}"
        if train:
            return "it is in training mode"
        if len(weights) != layers * (2 if both else 1) * (4 if has_biases else 2):
            return "its states are projected (proj_size)"
        return ""


def _unroll(node: Node, call: Call) -> None:
    data, states, weights, has_biases, layers, _, _, both, batch_first = node.args
    assert isinstance(data, Node) and isinstance(weights, Sequence) and isinstance(layers, int), "by schema"
    x = data if batch_first else call(aten.transpose.int, data, 0, 1)
    first = list(states) if node.target is LSTM else [states]  # type: ignore[arg-type]
    directions, each = 2 if both else 1, 4 if has_biases else 2
    last: list[State] = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            place = layer * directions + direction
            start: State = tuple(call(aten.select.int, state, 0, place) for state in first)
            own = list(weights[place * each : (place + 1) * each])
            output, end = _layer(call, node.target, x, start, own, backwards=direction == 1)
            outputs.append(output)
            last.append(end)
        x = outputs[0] if directions == 1 else call(aten.cat.default, outputs, 2)
    result = x if batch_first else call(aten.transpose.int, x, 0, 1)
    for user in list(node.users):
        place = int(user.args[1])  # type: ignore[arg-type]  # a getitem: the outputs, or a state of all layers
        if place:
            ends = [end[place - 1] for end in last]
            new = call(aten.cat.default, [call(aten.unsqueeze.default, end, 0) for end in ends], 0)
        else:
            new = result
        user.replace_all_uses_with(new)
        node.graph.erase_node(user)
    node.graph.erase_node(node)


def _layer(
    call: Call, kind: object, x: Any, state: State, weights: list[Any], *, backwards: bool
) -> tuple[Node, State]:
    """One layer in one direction: x (batch, steps, features) to (batch, steps, hidden), and the last state."""
    of_input, of_hidden, *biases = weights
    bias_input, bias_hidden = biases or (None, None)
    gates = call(aten.linear.default, x, of_input, bias_input)
    steps = value_of(gates).shape[1]
    step = _lstm_step if kind is LSTM else _gru_step
    hidden: list[Node] = []
    for time in reversed(range(steps)) if backwards else range(steps):
        now = call(aten.select.int, gates, 1, time)
        state = step(call, now, call(aten.linear.default, state[0], of_hidden, bias_hidden), state)
        hidden.append(call(aten.unsqueeze.default, state[0], 1))
    return call(aten.cat.default, hidden[::-1] if backwards else hidden, 1), state


def _split(call: Call, gates: Node, parts: int) -> list[Node]:
    size = value_of(gates).shape[-1] // parts
    return [call(aten.slice.Tensor, gates, 1, part * size, (part + 1) * size) for part in range(parts)]


def _lstm_step(call: Call, of_input: Node, of_hidden: Node, state: State) -> State:
    """i, f, g, o = gates; c' = f * c + i * g; h' = o * tanh(c')."""
    gates = _split(call, call(aten.add.Tensor, of_input, of_hidden), 4)
    keep_new, keep_old, give = (call(aten.sigmoid.default, gates[place]) for place in (0, 1, 3))
    new = call(aten.mul.Tensor, keep_new, call(aten.tanh.default, gates[2]))
    cell = call(aten.add.Tensor, call(aten.mul.Tensor, keep_old, state[1]), new)
    return call(aten.mul.Tensor, give, call(aten.tanh.default, cell)), cell


def _gru_step(call: Call, of_input: Node, of_hidden: Node, state: State) -> State:
    """r, z, n = gates; n = tanh(W x + r * (U h)); h' = n + z * (h - n)."""
    left, right = _split(call, of_input, 3), _split(call, of_hidden, 3)
    reset, update = (call(aten.sigmoid.default, call(aten.add.Tensor, left[place], right[place])) for place in range(2))
    new = call(aten.tanh.default, call(aten.add.Tensor, left[2], call(aten.mul.Tensor, reset, right[2])))
    change = call(aten.mul.Tensor, update, call(aten.sub.Tensor, state[0], new))
    return (call(aten.add.Tensor, new, change),)
