"""Keep a converter from multiplying stored weights with what stands beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten, insert_call, is_floating
from edgewright.pipeline.passes.layer_weights import WEIGHTS
from edgewright.pipeline.passes.stored_integers import stored_weight
from edgewright.pipeline.program import Program

LEAST = -3.0e38
HARMLESS = frozenset(
    {aten.gelu.default, aten.relu.default, aten.tanh.default, aten.sigmoid.default, aten.clamp.default}
)


@dataclass(frozen=True)
class KeepWeights:
    """Given: linear(layer_norm(x), dequantize(q)). Result: linear(clamp(layer_norm(x), min=-3e38), dequantize(q)).

    LiteRT's converter folds factors and offsets of channels into the weights of the layer that reads them, and a
    factor behind a layer into its weights: no integers any more. What a maximum stands between, it leaves alone; no
    number that a layer can give is that small.
    """

    name: ClassVar[str] = "keep-weights"
    runs_after: ClassVar[tuple[str, ...]] = ("quantize-weights",)

    def run(self, program: Program, context: Context) -> PassReport:
        guarded: dict[Node, Node] = {}
        rewrites = 0
        for node in list(program.graph.nodes):
            if node.op != "call_function" or node.target not in WEIGHTS or WEIGHTS[node.target][0] != 1:
                continue
            stored, source = stored_weight(program, node.args[1]), node.args[0]
            if stored is None or not stored.is_weight_only:
                continue
            if isinstance(source, Node) and source.op == "call_function" and source.target not in HARMLESS:
                if source not in guarded:
                    guarded[source] = insert_call(program, node, aten.clamp.default, source, LEAST)
                node.replace_input_with(source, guarded[source])
                rewrites += 1
            if any(user.target not in HARMLESS and is_floating(user) for user in node.users):
                after = insert_call(program, node.next, aten.clamp.default, node, LEAST, like=node)
                node.replace_all_uses_with(after, delete_user_cb=lambda user, after=after: user is not after)
                rewrites += 1
        return PassReport(rewrites)


assert torch.finfo(torch.float32).min < LEAST, "a number of float32"
