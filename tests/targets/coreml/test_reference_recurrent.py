"""Recurrent layers, against PyTorch's and against steps in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_programs import Array, assert_close, mb, normal, run

from edgewright.errors import TargetError

STEPS, BATCH, SIZE, HIDDEN = 4, 2, 3, 5
X = normal(STEPS, BATCH, SIZE)
H, C = normal(BATCH, HIDDEN, seed=1), normal(BATCH, HIDDEN, seed=2)


def weights(layer: torch.nn.Module, order: list[int], suffix: str = "") -> tuple[Array, Array, Array, Array]:
    """W_ih, W_hh, b_ih and b_hh of a PyTorch layer, its gates in MIL's order."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    parts = (getattr(layer, name + suffix).detach().numpy() for name in names)
    w, r, b_i, b_h = (np.concatenate([np.split(part, len(order))[gate] for gate in order]) for part in parts)
    return w, r, b_i, b_h


def torch_run(layer: Any, states: Any, reverse: bool) -> tuple[Array, Any]:
    x = torch.from_numpy(X)
    output, last = layer(x.flip(0) if reverse else x, states)
    return output.detach().numpy(), last


@pytest.mark.parametrize("output_sequence", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_lstm_equals_torch(direction: str, output_sequence: bool, tmp_path: Path) -> None:
    """In reverse the states stand in the order of the computation, as Apple's tests expect."""
    torch.manual_seed(0)
    layer = torch.nn.LSTM(SIZE, HIDDEN)
    w, r, b_i, b_h = weights(layer, [0, 1, 3, 2])
    states = (torch.from_numpy(H)[None], torch.from_numpy(C)[None])
    output, (h, c) = torch_run(layer, states, direction == "reverse")

    def build(x: object) -> object:
        return mb.lstm(
            x=x,
            initial_h=H,
            initial_c=C,
            weight_ih=w,
            weight_hh=r,
            bias=b_i + b_h,
            direction=direction,
            output_sequence=output_sequence,
        )

    expected = [output if output_sequence else output[-1:], h[0].detach().numpy(), c[0].detach().numpy()]
    assert_close(run(build, {"x": X}, tmp_path), expected)


@pytest.mark.parametrize("output_sequence", [True, False])
def test_bidirectional_lstm_equals_torch(output_sequence: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.LSTM(SIZE, HIDDEN, bidirectional=True)
    w, r, b_i, b_h = weights(layer, [0, 1, 3, 2])
    w_b, r_b, b_i_b, b_h_b = weights(layer, [0, 1, 3, 2], "_reverse")
    h0, c0 = normal(2, BATCH, HIDDEN, seed=3), normal(2, BATCH, HIDDEN, seed=4)
    output, (h, c) = torch_run(layer, (torch.from_numpy(h0), torch.from_numpy(c0)), False)
    last = [np.concatenate([*each.detach().numpy()], -1) for each in (h, c)]

    def build(x: object) -> object:
        return mb.lstm(
            x=x,
            initial_h=np.concatenate([*h0], -1),
            initial_c=np.concatenate([*c0], -1),
            weight_ih=w,
            weight_hh=r,
            bias=b_i + b_h,
            weight_ih_back=w_b,
            weight_hh_back=r_b,
            bias_back=b_i_b + b_h_b,
            direction="bidirectional",
            output_sequence=output_sequence,
        )

    assert_close(run(build, {"x": X}, tmp_path), [output if output_sequence else last[0][None], *last])


def test_lstm_with_peephole_clip_and_other_activations_follows_its_formulas(tmp_path: Path) -> None:
    """The formulas of the definition and of Apple's test, step by step."""
    w, r, b = normal(4 * HIDDEN, SIZE, seed=5), normal(4 * HIDDEN, HIDDEN, seed=6), normal(4 * HIDDEN, seed=7)
    p, clip = normal(3 * HIDDEN, seed=8), 0.4

    def build(x: object) -> object:
        return mb.lstm(
            x=x,
            initial_h=H,
            initial_c=C,
            weight_ih=w,
            weight_hh=r,
            bias=b,
            peephole=p,
            output_sequence=True,
            recurrent_activation="hard_sigmoid",
            cell_activation="relu",
            activation="linear",
            clip=np.float32(clip),
        )

    def gate(x: Array) -> Array:
        return np.clip(0.2 * x + 0.5, 0, 1)

    h, c, states = H, C, []
    p_i, p_f, p_o = np.split(p, 3)
    for x in X:
        i, f, o, z = np.split(x @ w.T + h @ r.T + b, 4, -1)
        c = np.clip(gate(f + p_f * c) * c + gate(i + p_i * c) * np.maximum(z, 0), -clip, clip)
        h = gate(o + p_o * c) * c
        states.append(h)
    assert_close(run(build, {"x": X}, tmp_path), [np.stack(states), h, c])


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_gru_with_reset_after_equals_torch(direction: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.GRU(SIZE, HIDDEN)
    w, r, b_i, b_h = weights(layer, [0, 2, 1])
    output, h = torch_run(layer, torch.from_numpy(H)[None], direction == "reverse")

    def build(x: object) -> object:
        return mb.gru(
            x=x,
            initial_h=H,
            weight_ih=w,
            weight_hh=r,
            bias=b_h,
            input_bias=b_i,
            reset_after=True,
            direction=direction,
            output_sequence=True,
        )

    assert_close(run(build, {"x": X}, tmp_path), [output, h[0].detach().numpy()])


@pytest.mark.parametrize("opset", ["iOS15", "iOS18"])
def test_gru_resets_before_its_product(opset: str, tmp_path: Path) -> None:
    """Step by step, as Apple's test does: o = tanh(W_o x + R_o (r h) + b_o)."""
    w, r, b = normal(3 * HIDDEN, SIZE, seed=5), normal(3 * HIDDEN, HIDDEN, seed=6), normal(3 * HIDDEN, seed=7)

    def build(x: object) -> object:
        return mb.gru(x=x, initial_h=H, weight_ih=w, weight_hh=r, bias=b, output_sequence=True)

    def sigmoid(x: Array) -> Array:
        return 1 / (1 + np.exp(-x))

    (w_r, w_o, w_z), (r_r, r_o, r_z), (b_r, b_o, b_z) = (np.split(each, 3) for each in (w, r, b))
    h, states = H, []
    for x in X:
        reset, update = (sigmoid(x @ a.T + h @ q.T + s) for a, q, s in ((w_r, r_r, b_r), (w_z, r_z, b_z)))
        h = (1 - update) * np.tanh(x @ w_o.T + (reset * h) @ r_o.T + b_o) + update * h
        states.append(h)
    assert_close(run(build, {"x": X}, tmp_path, opset), [np.stack(states), h])


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_rnn_equals_torch(direction: str, activation: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.RNN(SIZE, HIDDEN, nonlinearity=activation)
    w, r, b_i, b_h = weights(layer, [0])
    output, h = torch_run(layer, torch.from_numpy(H)[None], direction == "reverse")

    def build(x: object) -> object:
        return mb.rnn(
            x=x,
            initial_h=H,
            weight_ih=w,
            weight_hh=r,
            bias=b_i + b_h,
            direction=direction,
            output_sequence=True,
            activation=activation,
        )

    assert_close(run(build, {"x": X}, tmp_path), [output, h[0].detach().numpy()])


def test_scaled_tanh_is_refused(tmp_path: Path) -> None:
    def build(x: object) -> object:
        return mb.rnn(
            x=x,
            initial_h=H,
            weight_ih=normal(HIDDEN, SIZE),
            weight_hh=normal(HIDDEN, HIDDEN),
            activation="scaled_tanh",
        )

    with pytest.raises(TargetError, match=r"rnn .*factors of the activation 'scaled_tanh' are not stated"):
        run(build, {"x": X}, tmp_path)
