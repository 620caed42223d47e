"""Write matrix products in the two forms that every target and pass knows: linear layers and plain products."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import add_constant, aten, insert_call, replace, value_of
from edgewright.pipeline.program import Program

PLAIN = frozenset({aten.matmul.default, aten.mm.default})
SUMS = {aten.addmm.default: aten.mm.default, aten.baddbmm.default: aten.bmm.default}


@dataclass(frozen=True)
class LinearProducts:
    """Given: addmm(b, x, W) or matmul(x, W), W a constant [in, out]. Result: linear(x, W^T, b).

    So GPT-2's layers are layers: quantized by output channel, and fully connected in every runtime. A sum with a
    product of two activations becomes the product and an addition. Scaled sums (alpha, beta) are left alone.
    """

    name: ClassVar[str] = "linear-products"
    runs_after: ClassVar[tuple[str, ...]] = ("fold-constants",)

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in list(program.graph.nodes):
            if node.target in PLAIN and _is_weight(node.args[1]):
                _write_linear(program, node, *node.args)
            elif node.target in SUMS and not node.kwargs:
                bias, left, right = node.args
                if _is_weight(right) and value_of(bias).dim() == 1:
                    _write_linear(program, node, left, right, bias)
                else:
                    product = insert_call(program, node, SUMS[node.target], left, right)
                    replace(node, insert_call(program, node, aten.add.Tensor, product, bias))
            else:
                continue
            rewrites += 1
        return PassReport(rewrites)


def _is_weight(node: object) -> bool:
    return isinstance(node, Node) and node.op == "get_attr" and value_of(node).dim() == 2


def _write_linear(program: Program, node: Node, left: Node, weight: Node, *bias: Node) -> None:
    call = partial(insert_call, program, node)
    turned = add_constant(program, f"{weight.target}_turned", program.tensor(weight).t(), node)
    replace(node, call(aten.linear.default, left, turned, *bias))
