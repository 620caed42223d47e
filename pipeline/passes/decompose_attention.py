"""Spell scaled dot-product attention out, so that its matrix products can be quantized."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import add_constant, aten, insert_call, replace, value_of
from edgewright.pipeline.program import Program

ATTENTION = aten.scaled_dot_product_attention.default


@dataclass(frozen=True)
class DecomposeAttention:
    """Given: scaled_dot_product_attention(q, k, v, mask). Result: softmax((q @ k^T) * s + mask) @ v.

    The scale stands behind the product: there it costs no encoding of its own, and query and key go into the product
    as their layers wrote them. A boolean mask becomes the float one that PyTorch defines for it: 0 where
    True, a large negative number (finite, so that no runtime makes NaN of it) where False.
    Source: PyTorch's definition of torch.nn.functional.scaled_dot_product_attention.
    """

    name: ClassVar[str] = "decompose-attention"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        nodes = program.graph.find_nodes(op="call_function", target=ATTENTION)
        random = [node for node in nodes if _dropout(node) != 0.0]
        for node in nodes:
            if node not in random:
                _decompose(program, node)
        skips = tuple(Skip(node.name, f"it drops attention at random (dropout_p={_dropout(node)})") for node in random)
        return PassReport(len(nodes) - len(random), skips)


def _dropout(node: Node) -> float:
    return float(node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0))  # type: ignore[arg-type]


def _decompose(program: Program, node: Node) -> None:
    arguments = dict(zip(("query", "key", "value", "mask", "dropout", "causal"), node.args, strict=False))
    arguments |= {"mask" if key == "attn_mask" else key: value for key, value in node.kwargs.items()}
    query, key, value = (arguments[name] for name in ("query", "key", "value"))
    assert isinstance(query, Node) and isinstance(key, Node) and isinstance(value, Node), "tensors by schema"
    scale = arguments.get("scale")
    if scale is None:
        scale = 1.0 / math.sqrt(value_of(query).shape[-1])

    def call(target: object, *args: object) -> Node:
        return insert_call(program, node, target, *args)

    if arguments.get("enable_gqa"):
        groups = value_of(query).shape[-3] // value_of(key).shape[-3]
        key, value = (call(aten.repeat_interleave.self_int, side, groups, -3) for side in (key, value))
    product = call(aten.matmul.default, query, call(aten.transpose.int, key, -2, -1))
    scores = call(aten.mul.Tensor, product, scale)
    mask = arguments.get("mask")
    if arguments.get("causal") or arguments.get("is_causal"):
        rows, columns = value_of(scores).shape[-2:]
        allowed = torch.ones(rows, columns, dtype=torch.bool).tril()
        mask = add_constant(program, "additive_causal_mask", _additive(allowed), node)
    if isinstance(mask, Node):
        scores = call(aten.add.Tensor, scores, _float_mask(program, mask, node))
    weights = call(aten.softmax.int, scores, -1)
    replace(node, call(aten.matmul.default, weights, value))


LARGE_NEGATIVE = -10000.0  # exp() of it is 0 in float32 and float16 alike


def _additive(allowed: Tensor) -> Tensor:
    return torch.where(allowed, 0.0, LARGE_NEGATIVE)


def _float_mask(program: Program, mask: Node, like: Node) -> Node:
    if mask.meta["val"].dtype != torch.bool:
        return mask
    if mask.op == "get_attr":
        return add_constant(program, "additive_mask", _additive(program.tensor(mask)), like)
    kept = insert_call(program, like, aten.to.dtype, mask, torch.float32)
    return insert_call(
        program,
        like,
        aten.mul.Tensor,
        insert_call(program, like, aten.sub.Tensor, kept, 1.0),
        -LARGE_NEGATIVE,
    )
