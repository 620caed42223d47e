"""Keep a converter from multiplying stored weights with what stands beside them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import TURNS, aten, insert_call, is_floating
from edgewright.pipeline.passes.layer_weights import WEIGHTS
from edgewright.pipeline.passes.stored_integers import stored_weight
from edgewright.pipeline.program import Program

LEAST = -3.0e38
HARMLESS = frozenset(
    {aten.gelu.default, aten.relu.default, aten.tanh.default, aten.sigmoid.default, aten.clamp.default}
)
FACTORS = frozenset({aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar})
# They end with a factor of each channel.
NORMS = frozenset({aten.layer_norm.default, aten.rms_norm.default, aten._native_batch_norm_legit_no_training.default})
ATTENTION = aten.scaled_dot_product_attention.default
PASSED = TURNS | {operator.getitem}


@dataclass(frozen=True)
class KeepWeights:
    """Given: linear(layer_norm(x), dequantize(q)). Result: linear(clamp(layer_norm(x), min=-3e38), dequantize(q)).

    LiteRT's converter folds factors and offsets of channels into the weights of the layer that reads them, and a
    factor behind a layer into its weights: no integers any more. What a maximum stands between, it leaves alone; no
    number that a layer can give is that small.

    A product with a float16 weight is stored in float32, too. Offsets change no weight: there a maximum stands only
    between the weight and factors (those of norms and of attention among them), which the converter also finds behind
    turns of axes.

    Args:
        also: names of stored weights to keep although their layers read integers: those are restored, and rounded anew
            by the layer as they come. The converter would make the layer a static one, with integers of its own.
    """

    name: ClassVar[str] = "keep-weights"
    runs_after: ClassVar[tuple[str, ...]] = ("convert-floats", "quantize-weights")
    also: frozenset[str] = frozenset()

    def run(self, program: Program, context: Context) -> PassReport:
        guarded: dict[Node, Node] = {}
        rewrites = 0
        for node in list(program.graph.nodes):
            if node.op != "call_function" or node.target not in WEIGHTS or WEIGHTS[node.target][0] != 1:
                continue
            found = _to_guard(program, node, self.also)
            if found is None:
                continue
            source, (before, after) = node.args[0], found
            if isinstance(source, Node) and before:
                if source not in guarded:
                    guarded[source] = insert_call(program, node, aten.clamp.default, source, LEAST)
                node.replace_input_with(source, guarded[source])
                rewrites += 1
            if after:
                guard = insert_call(program, node.next, aten.clamp.default, node, LEAST, like=node)
                node.replace_all_uses_with(guard, delete_user_cb=lambda user, guard=guard: user is not guard)
                rewrites += 1
        return PassReport(rewrites)


def _to_guard(program: Program, layer: Node, also: frozenset[str]) -> tuple[bool, bool] | None:
    """Whether what stands before a layer, and what behind, would go into its stored weight; None if it has none."""
    source, weight = layer.args[:2]
    stored = stored_weight(program, weight)
    if stored is not None and stored.is_weight_only:
        reads = isinstance(source, Node) and source.op == "call_function" and source.target not in HARMLESS
        return reads, any(user.target not in HARMLESS and is_floating(user) for user in layer.users)
    if stored is not None and stored.name in also:
        return True, True
    if isinstance(weight, Node) and weight.target is aten.to.dtype and _is_constant(weight):
        while isinstance(source, Node) and source.target in PASSED:
            source = source.args[0]
        scaled = isinstance(source, Node) and (source.target in NORMS or _is_factor(source))
        return scaled, any(user.target is ATTENTION or _is_factor(user) for user in _readers(layer))
    return None


def _readers(node: Node) -> Iterator[Node]:
    for user in node.users:
        if user.target in PASSED:
            yield from _readers(user)
        else:
            yield user


def _is_factor(node: Node) -> bool:
    return node.target in FACTORS and any(map(_is_constant, node.args[:2]))


def _is_constant(value: object) -> bool:
    if isinstance(value, Node):
        return value.op == "get_attr" or (value.target is aten.to.dtype and _is_constant(value.args[0]))
    return isinstance(value, int | float)


assert torch.finfo(torch.float32).min < LEAST, "a number of float32"
