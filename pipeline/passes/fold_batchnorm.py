"""Fold batch normalization into the convolution or linear layer before it."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.fold_scales import OUTPUT_AXIS, scale_outputs
from edgewright.pipeline.passes.graph import aten, value_of
from edgewright.pipeline.program import Program

NORM = aten._native_batch_norm_legit_no_training.default


@dataclass(frozen=True)
class FoldBatchnorm:
    """w' = w * g / sqrt(v + eps), b' = (b - m) * g / sqrt(v + eps) + beta, one factor an output channel.

    Given: conv(x, w, b) -> batch_norm(g, beta, m, v) with no other user of the convolution.
    Result: conv(x, w', b').
    Source: Jacob 2018, arXiv:1712.05877, section 3.2.
    """

    name: ClassVar[str] = "fold-batchnorm"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        skips = []
        rewrites = 0
        for norm in program.graph.find_nodes(op="call_function", target=NORM):
            reason = _obstacle(norm)
            if reason:
                skips.append(Skip(norm.name, reason))
                continue
            _fold(program, norm)
            rewrites += 1
        return PassReport(rewrites, tuple(skips))


def _obstacle(norm: Node) -> str | None:
    layer = norm.args[0]
    if not isinstance(layer, Node) or layer.target not in OUTPUT_AXIS:
        return "no convolution or linear layer before it"
    weight = layer.args[1]
    if isinstance(weight, Node) and value_of(layer).dim() != value_of(weight).dim():
        return f"the channels of {layer.name} are not on the axis that is normalized"
    if len(layer.users) > 1:
        return f"{layer.name} has other users"
    if layer.target is aten.conv_transpose2d.input and len(layer.args) > 6 and layer.args[6] != 1:
        return f"{layer.name} is a grouped transposed convolution"
    constants = [arg for arg in (*layer.args[1:3], *norm.args[1:5]) if isinstance(arg, Node)]
    if any(node.op != "get_attr" for node in constants):
        return "its weights are computed, not constant"
    return None


def _fold(program: Program, norm: Node) -> None:
    layer = norm.args[0]
    assert isinstance(layer, Node), "checked by _obstacle"

    def constant(arg: object, default: Tensor) -> Tensor:
        return program.tensor(arg) if isinstance(arg, Node) else default

    channels = value_of(layer).shape[1]
    ones, zeros = torch.ones(channels), torch.zeros(channels)
    gamma, beta = constant(norm.args[1], ones), constant(norm.args[2], zeros)
    mean, variance = constant(norm.args[3], zeros), constant(norm.args[4], ones)
    factor = gamma.double() / torch.sqrt(variance.double() + float(norm.args[6]))  # type: ignore[arg-type]
    scale_outputs(program, layer, factor, beta.double() - mean.double() * factor)
    for user in list(norm.users):
        assert user.target is operator.getitem and user.args[1] == 0, "inference batch norm uses its first result only"
        user.replace_all_uses_with(layer)
        program.graph.erase_node(user)
    program.graph.erase_node(norm)
