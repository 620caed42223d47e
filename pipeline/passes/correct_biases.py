"""Take the mean error that rounding leaves in each channel of a layer's output out of its bias."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.calibration.lockstep import run_in_lockstep
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.fold_scales import OUTPUT_AXIS
from edgewright.pipeline.passes.graph import add_constant, aten
from edgewright.pipeline.program import Program


def correct_biases(before: Program, after: Program, context: Context) -> int:
    """Given: linear(x', W', b) in `after`, where `before` has linear(x, W, b).
    Result: b + E[W x + b] - E[W' x' + b], so that each channel has the mean that it had.

    Layers are taken one by one, each on what the corrected ones before it give. Rows count by what the program's
    outputs owe them: padding not at all.

    Args:
        before: with the same names of layers; `after` is edited.
    Returns:
        How many layers were corrected.
    Source: Nagel 2019, arXiv:1906.04721, section 4.2 and appendix D (empirical bias correction).
    """
    floats = {node.name: node for node in _layers(before)}
    rounded = [node for node in _layers(after) if _is_rounded(node) and node.name in floats]
    chosen = [floats[node.name] for node in rounded]
    influence = {layer.name: rows for layer, rows in context.influence.of(before, chosen).items()}
    means: dict[str, Tensor] = {}

    def record(layer: Node, inputs: list[tuple[Any, ...]]) -> None:
        means[layer.name] = _channel_means(layer, inputs, influence.get(layer.name))

    def correct(layer: Node, inputs: list[tuple[Any, ...]]) -> None:
        missing = means[layer.name] - _channel_means(layer, inputs, influence.get(layer.name))
        bias = layer.args[2] if len(layer.args) > 2 else None
        value = after.tensor(bias).detach() + missing if isinstance(bias, Node) else missing
        name = str(bias.target) if isinstance(bias, Node) else f"{layer.name}_bias"
        new = add_constant(after, name, value, layer)
        layer.args = (*layer.args[:2], new, *layer.args[3:])

    run_in_lockstep(before, context.batches, {layer: partial(record, layer) for layer in chosen})
    run_in_lockstep(after, context.batches, {layer: partial(correct, layer) for layer in rounded})
    return len(rounded)


def _layers(program: Program) -> list[Node]:
    return [node for node in program.graph.nodes if node.op == "call_function" and node.target in OUTPUT_AXIS]


def _is_rounded(layer: Node) -> bool:
    """Whether its weight is restored from integers, and its bias (if any) a constant."""
    weight, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
    return (
        isinstance(weight, Node)
        and "dequantize" in str(weight.target)
        and (bias is None or (isinstance(bias, Node) and bias.op == "get_attr"))
    )


def _channel_means(layer: Node, inputs: list[tuple[Any, ...]], influence: Sequence[Tensor] | None) -> Tensor:
    """Of the layer's output over all batches: float32, (channels,)."""
    total, count = torch.zeros(()), 0.0
    for place, arguments in enumerate(inputs):
        output = layer.target(*arguments)  # type: ignore[operator]
        axis = -1 if layer.target is aten.linear.default else output.dim() - arguments[1].dim() + 1
        rows = output.movedim(axis, -1).flatten(0, -2)
        counted = torch.ones(len(rows)) if influence is None else influence[place]
        total = total + counted @ rows
        count += float(counted.sum())
    return total / count
