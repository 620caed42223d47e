"""Let PyTorch decompose each distinct operation of a program once, instead of tracing the whole program anew.

Converters call `ExportedProgram.run_decompositions`, some of them twice, and it takes most of their time: every layer
is traced through autograd and functionalization, though all layers of a kind decompose alike. Here a program of the
distinct operations alone is given to PyTorch's own function, and what it makes of each takes that operation's places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import getitem
from types import FunctionType
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._ops import OpOverload
from torch.export.exported_program import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from edgewright.pipeline.exported import assemble, copy_node

Table = Mapping[Any, Callable[..., Any]]
Whole = Callable[..., ExportedProgram]
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd  # operations that are made of others
STAND_IN = torch.ops.aten.alias.default  # for a Python function, which an ExportedProgram is not made with
TRACES = ("nn_module_stack", "stack_trace", "source_fn_stack")


@contextmanager
def decomposing_once() -> Iterator[None]:
    """Within it, `run_decompositions` of every ExportedProgram works so."""
    whole: Whole = ExportedProgram.run_decompositions

    def run_decompositions(
        self: ExportedProgram, decomp_table: Table | None = None, decompose_custom_triton_ops: bool = False
    ) -> ExportedProgram:
        table: Any = torch.export.default_decompositions() if decomp_table is None else decomp_table
        table = table.materialize() if hasattr(table, "materialize") else dict(table)
        made = _decompose(self, table, whole) if _is_plain(self.graph) else None
        return made or whole(self, decomp_table, decompose_custom_triton_ops)

    ExportedProgram.run_decompositions = run_decompositions  # type: ignore[method-assign]
    try:
        yield
    finally:
        ExportedProgram.run_decompositions = whole  # type: ignore[method-assign]


def _is_plain(graph: Graph) -> bool:
    """Whether all shapes are known numbers, and each step is one operation on tensors (no nested graph)."""
    return all(
        isinstance(size, int)
        for node in graph.nodes
        for value in pytree.tree_leaves(node.meta.get("val"))
        if isinstance(value, Tensor)
        for size in value.shape
    ) and all(
        # A converter's own pass may have left a new operation without its shape.
        "val" in node.meta and (isinstance(node.target, OpOverload | FunctionType) or node.target is getitem)
        for node in graph.nodes
        if node.op == "call_function"
    )


@dataclass(frozen=True)
class Piece:
    """What a distinct operation decomposes to.

    Args:
        inputs: its placeholders, one for each of the operation's input nodes.
        results: the nodes that give its results.
        is_tuple: whether the operation gives several.
    """

    inputs: tuple[Node, ...]
    results: tuple[Node, ...]
    is_tuple: bool

    def put(self, graph: Graph, sources: Sequence[Node], origin: Node) -> Node | tuple[Node, ...]:
        """Copy it to the end of a graph; gives the results there."""
        copies = dict(zip(self.inputs, sources, strict=True))
        for node in self._steps():
            copies[node] = graph.node_copy(node, copies.__getitem__)
            copies[node].meta |= {key: origin.meta[key] for key in TRACES if key in origin.meta}
        results = tuple(copies[result] for result in self.results)
        return results if self.is_tuple else results[0]

    def _steps(self) -> list[Node]:
        """The nodes between inputs and results, in order; they stand in one graph with those of others."""
        needed, ahead = set(self.inputs), [*self.results]
        steps = []
        while ahead:
            node = ahead.pop()
            if node not in needed:
                needed.add(node)
                steps.append(node)
                ahead += node.all_input_nodes
        return sorted(steps)


def _decompose(exported: ExportedProgram, table: Table, whole: Whole) -> ExportedProgram | None:
    keys = {node: _key(node) for node in exported.graph.nodes if _may_change(node, table)}
    distinct = {key: node for node, key in reversed(keys.items())}
    pieces = _pieces(distinct, table, whole)
    if pieces is None:
        return None
    graph = Graph()
    copies: dict[Node, Any] = {}
    for node in exported.graph.nodes:
        if node in keys:
            copies[node] = pieces[keys[node]].put(graph, [copies[source] for source in node.all_input_nodes], node)
        elif node.target is getitem and isinstance(copies[node.args[0]], tuple):
            copies[node] = copies[node.args[0]][node.args[1]]
        else:
            copies[node] = copy_node(graph, node, copies)
    graph.eliminate_dead_code()
    return assemble(
        graph, exported.graph_signature.input_specs, exported.state_dict, exported.constants, exported.example_inputs
    )


def _may_change(node: Node, table: Table) -> bool:
    """Whether PyTorch could decompose it: by the table, as a composite operation, or as a Python function."""
    if node.op != "call_function" or node.target is getitem:
        return False
    operation = node.target
    if not isinstance(operation, OpOverload):
        return True
    return operation in table or operation.has_kernel_for_dispatch_key(COMPOSITE)


def _key(node: Node) -> str:
    """The same for operations that decompose alike: with the same arguments, up to the numbers in their tensors."""
    function = node.target
    if isinstance(function, FunctionType):
        if function.__closure__:
            return f"{node.name} alone"  # what it closes over may be its own
        name = str(id(function.__code__))
    else:
        name = str(function)
    sources = node.all_input_nodes
    shown = map_arg((node.args, node.kwargs), lambda source: f"input {sources.index(source)}")
    values = [source.meta["val"] for source in sources]
    return repr((name, shown, [(value.dtype, tuple(value.shape), value.stride()) for value in values]))


def _pieces(distinct: Mapping[str, Node], table: Table, whole: Whole) -> dict[str, Piece] | None:
    """Decompose the operations in one program; None where that needs constants of its own."""
    graph = Graph()
    inputs = {key: [_placeholder(graph, source) for source in node.all_input_nodes] for key, node in distinct.items()}
    functions: dict[Node, Callable[..., Any]] = {}
    results: list[Node] = []
    for key, node in distinct.items():
        own = dict(zip(node.all_input_nodes, inputs[key], strict=True))
        args, kwargs = map_arg((node.args, node.kwargs), own.__getitem__)
        operation: Any = node.target
        is_function = isinstance(operation, FunctionType)
        call = graph.call_function(STAND_IN if is_function else operation, args, kwargs)
        call.meta["val"] = node.meta["val"]
        if is_function:
            functions[call] = operation
        results += [call] if isinstance(node.meta["val"], Tensor) else _picked(graph, call)
    graph.output(tuple(results))
    places = graph.find_nodes(op="placeholder")
    ports = [InputSpec(InputKind.USER_INPUT, TensorArgument(place.name), None) for place in places]
    exported = assemble(graph, ports, {}, {}, (tuple(place.meta["val"] for place in places), {}))
    for call, function in functions.items():
        call.target = function
    exported.graph_module.recompile()
    made = whole(exported, table).graph
    found = iter(made.find_nodes(op="placeholder"))
    ends = iter(made.output_node().args[0])
    if len(made.find_nodes(op="placeholder")) != len(places):
        return None
    return {
        key: Piece(
            tuple(next(found) for _ in inputs[key]),
            tuple(next(ends) for _ in pytree.tree_leaves(node.meta["val"])),
            not isinstance(node.meta["val"], Tensor),
        )
        for key, node in distinct.items()
    }


def _placeholder(graph: Graph, source: Node) -> Node:
    place = graph.placeholder(f"value_{len(graph.nodes)}")  # each its own name
    place.meta["val"] = source.meta["val"]
    return place


def _picked(graph: Graph, call: Node) -> list[Node]:
    picked = [graph.call_function(getitem, (call, place)) for place in range(len(call.meta["val"]))]
    for place, node in enumerate(picked):
        node.meta["val"] = call.meta["val"][place]
    return picked
