"""Recurrent layers.

Source: coremltools 9, mil/ops/defs/iOS15/recurrent.py, iOS17 (float16) and iOS18/recurrent.py (reset_after
and input_bias of gru); the reference computations of mil/ops/tests/iOS14/test_recurrent.py.

A layer is computed in float32 throughout: a float16 layer is rounded at its outputs only. With direction
"reverse" the states come in the order of the computation, the last time step first; the backward half of a
bidirectional layer comes in the order of time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgewright.targets.coreml.reference.registry import limit, mil

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "hard_sigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "linear": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "sigmoid_hard": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "tanh": torch.tanh,
}


def _steps(x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:
    """What the input adds at each step, in the order of the computation."""
    projected = torch.matmul(x.flip(0) if reverse else x, weight.T)
    return projected if bias is None else projected + bias


@mil("rnn")
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    direction: str,
    output_sequence: bool,
    activation: str,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h = activation(W_ih x + W_hh h + b)"""
    act, h, states = ACTIVATIONS[activation.lower()], initial_h, []
    for step in _steps(x, weight_ih, bias, direction == "reverse"):
        h = act(step + h @ weight_hh.T)
        states.append(h)
    return torch.stack(states if output_sequence else states[-1:]), h


@mil("gru")
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    direction: str,
    output_sequence: bool,
    recurrent_activation: str,
    activation: str,
    bias: Tensor | None = None,
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gates in the order reset, output, update; h = (1 - z) o + z h.

    The output gate reads W_ho (r h), or with `reset_after` r (W_ho h + b_ho), which is PyTorch's.
    """
    gate, act = ACTIVATIONS[recurrent_activation.lower()], ACTIVATIONS[activation.lower()]
    w_r, w_o, w_z = weight_hh.chunk(3)
    b_r, b_o, b_z = (torch.zeros(len(weight_hh)) if bias is None else bias).chunk(3)
    h, states = initial_h, []
    for step in _steps(x, weight_ih, input_bias, direction == "reverse"):
        x_r, x_o, x_z = step.chunk(3, -1)
        r = gate(x_r + h @ w_r.T + b_r)
        z = gate(x_z + h @ w_z.T + b_z)
        hidden = r * (h @ w_o.T + b_o) if reset_after else (r * h) @ w_o.T + b_o
        h = (1 - z) * act(x_o + hidden) + z * h
        states.append(h)
    return torch.stack(states if output_sequence else states[-1:]), h


def _lstm_states(
    steps: Tensor,
    h: Tensor,
    c: Tensor,
    weight: Tensor,
    peephole: Tensor | None,
    activations: tuple[Activation, Activation, Activation],
    clip: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Every h, in the order of the computation, and the last h and c. Gates in the order input, forget,
    output, cell."""
    gate, cell, out = activations
    p_i, p_f, p_o = (torch.zeros(3 * h.shape[-1]) if peephole is None else peephole).chunk(3)
    states = []
    for step in steps:
        x_i, x_f, x_o, x_z = (step + h @ weight.T).chunk(4, -1)
        c = gate(x_f + p_f * c) * c + gate(x_i + p_i * c) * cell(x_z)
        c = c if clip is None else torch.clamp(c, -clip, clip)
        h = gate(x_o + p_o * c) * out(c)
        states.append(h)
    return torch.stack(states), h, c


@mil("lstm")
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    direction: str,
    output_sequence: bool,
    recurrent_activation: str,
    cell_activation: str,
    activation: str,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    clip: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`clip` bounds the memory c; the forward half of states and outputs stands before the backward half."""
    names = (recurrent_activation, cell_activation, activation)
    gate, cell, out = (ACTIVATIONS[name.lower()] for name in names)

    def run(h: Tensor, c: Tensor, w: Tensor, r: Tensor, b: Tensor | None, p: Tensor | None, reverse: bool) -> Any:
        return _lstm_states(_steps(x, w, b, reverse), h, c, r, p, (gate, cell, out), clip)

    if direction != "bidirectional":
        states, h, c = run(initial_h, initial_c, weight_ih, weight_hh, bias, peephole, direction == "reverse")
        return (states if output_sequence else states[-1:]), h, c
    assert weight_ih_back is not None, "MIL asks for it"
    assert weight_hh_back is not None, "MIL asks for it"
    (h_f, h_b), (c_f, c_b) = initial_h.chunk(2, -1), initial_c.chunk(2, -1)
    ahead, h_f, c_f = run(h_f, c_f, weight_ih, weight_hh, bias, peephole, False)
    back, h_b, c_b = run(h_b, c_b, weight_ih_back, weight_hh_back, bias_back, peephole_back, True)
    last = torch.cat([h_f, h_b], -1)
    states = torch.cat([ahead, back.flip(0)], -1) if output_sequence else last[None]
    return states, last, torch.cat([c_f, c_b], -1)


@limit("rnn", "gru", "lstm")
def known_activations(op: Any) -> str | None:
    names = ("recurrent_activation", "cell_activation", "activation")
    stated = [getattr(op, name) for name in names if getattr(op, name, None) is not None]
    unknown = sorted({each.val for each in stated if each.val.lower() not in ACTIVATIONS})
    if "scaled_tanh" in unknown:
        return "the factors of the activation 'scaled_tanh' are not stated"
    return f"activation {', '.join(map(repr, unknown))}" if unknown else None
