"""Rewrite operations that a format lacks, or gets wrong, into ones that it has."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import add_constant
from edgewright.pipeline.program import Program

Rule = Callable[..., Any]
Rules = tuple[tuple[torch._ops.OpOverload, Rule], ...]
Rewritten = Tensor | Any  # what a rule gives: or NotImplemented, which mypy takes for Any


@dataclass(frozen=True)
class DecomposeOperators:
    """Given: an operation of `rules`. Result: the operations that its rule calls, with the same numbers.

    A rule is a function with the operation's own arguments, written in PyTorch; it is traced at the operation's
    shapes, and composite operations stay whole (a linear layer in a rule is one in the graph). It returns
    NotImplemented for arguments that the format takes as they are.

    Args:
        rules: pairs of an overload and its rule, as data of the target (see `decompositions`).
    """

    name: ClassVar[str] = "decompose-operators"
    runs_after: ClassVar[tuple[str, ...]] = ()
    rules: Rules = ()

    def run(self, program: Program, context: Context) -> PassReport:
        rules, rewrites, skips = dict(self.rules), 0, []
        for node in list(program.graph.nodes):
            rule = rules.get(node.target)
            if rule is None:
                continue
            values = [source.meta["val"] for source in node.all_input_nodes]
            if not all(isinstance(value, Tensor) and _is_fixed(value) for value in values):
                skips.append(Skip(node.name, "its sizes are not fixed"))
                continue
            traced = _trace(node, rule)
            if traced is not None:
                _inline(program, node, traced)
                rewrites += 1
        return PassReport(rewrites, tuple(skips))


def _is_fixed(value: Tensor) -> bool:
    return all(isinstance(size, int) for size in value.shape)


def _trace(node: Node, rule: Rule) -> GraphModule | None:
    """The rule's graph at the node's shapes; its inputs are the node's input nodes, in their order."""
    sources = node.all_input_nodes
    applies = True

    def call(*tensors: Tensor) -> Any:
        nonlocal applies
        values = dict(zip(sources, tensors, strict=True))
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        result = rule(*args, **kwargs)
        applies = result is not NotImplemented
        return result if applies else ()

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        values = [source.meta["val"] for source in sources]
        # Contiguous and made anew: fake tensors of different modes do not mix.
        examples = [torch.empty(tuple(value.shape), dtype=value.dtype) for value in values]
        traced = make_fx(call, pre_dispatch=True)(*examples)
    traced.graph.eliminate_dead_code()  # calls that give no tensor (torch.promote_types) are recorded, too
    return traced if applies else None


def _inline(program: Program, node: Node, traced: GraphModule) -> None:
    copies: dict[Node, Node] = dict(zip(traced.graph.find_nodes(op="placeholder"), node.all_input_nodes, strict=True))
    for inner in traced.graph.nodes:
        if inner.op == "get_attr":
            copies[inner] = add_constant(program, f"{node.name}_constant", getattr(traced, inner.target), node)
        elif inner.op == "call_function":
            with program.graph.inserting_before(node):
                copies[inner] = program.graph.node_copy(inner, copies.__getitem__)
            value = pytree.tree_map_only(
                Tensor, lambda tensor: torch.empty_like(tensor, device="meta"), inner.meta["val"]
            )
            copies[inner].meta = {"val": value}
            for key in ("nn_module_stack", "stack_trace", "source_fn_stack"):
                if key in node.meta:
                    copies[inner].meta[key] = node.meta[key]
    results: Any = torch.fx.node.map_arg(traced.graph.output_node().args[0], copies.__getitem__)
    if isinstance(results, Node):
        node.replace_all_uses_with(results)
    else:
        for user in list(node.users):
            assert user.target is operator.getitem, "results of several tensors are picked from"
            user.replace_all_uses_with(results[user.args[1]])
            program.graph.erase_node(user)
    program.graph.erase_node(node)
