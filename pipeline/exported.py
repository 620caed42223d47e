"""Program -> torch.export.ExportedProgram, the form that converters take, without tracing the graph anew."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import getitem
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export.exported_program import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, Node
from torch.fx.passes.shape_prop import _extract_tensor_metadata
from torch.nn import Module, Parameter

from edgewright.pipeline.program import Program

PREFIXES = {InputKind.PARAMETER: "p_", InputKind.BUFFER: "b_", InputKind.CONSTANT_TENSOR: "c_"}  # torch.export's


Example = tuple[tuple[Tensor, ...], dict[str, Tensor]]  # positional inputs, then those by name


def as_exported(program: Program) -> ExportedProgram:
    """The same graph with its constants as inputs. Where sizes are open or graphs nested, torch.export traces it."""
    if is_plain(program):
        return _lifted(program, (program.example, {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(program.module, program.example, strict=False, dynamic_shapes=program.open_axes())


@contextmanager
def exporting_as_given(programs: Collection[Program]) -> Iterator[None]:
    """Within it, `torch.export.export` gives the modules of these programs as `as_exported` does.

    For converters that take a module alone and trace it; `tensor_meta` is what a trace leaves, too.
    """
    traced = torch.export.export

    def export(
        module: Module, args: tuple[Tensor, ...] = (), kwargs: dict[str, Tensor] | None = None, **options: Any
    ) -> ExportedProgram:
        for program in programs:
            if program.module is module and is_plain(program):
                exported = _lifted(program, (args, kwargs or {}))
                for node in exported.graph.nodes:
                    if isinstance(value := node.meta.get("val"), Tensor):
                        node.meta["tensor_meta"] = _extract_tensor_metadata(value)
                return exported
        return traced(module, args, kwargs, **options)

    torch.export.export = export  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.export.export = traced


def is_plain(program: Program) -> bool:
    """Whether all sizes are fixed, and each step is an operation of PyTorch (no nested graph)."""
    return not program.dims and all(
        node.target is getitem or isinstance(node.target, OpOverload)
        for node in program.graph.nodes
        if node.op == "call_function"
    )


def _lifted(program: Program, example: Example) -> ExportedProgram:
    mode = _mode_of(program)
    graph = Graph()
    copies: dict[Node, Node] = {}
    inputs: list[InputSpec] = []
    held: dict[InputKind, dict[str, Tensor]] = {kind: {} for kind in PREFIXES}
    taken = {str(node.target) for node in program.graph.find_nodes(op="placeholder")}
    for kind, constants in _by_kind(program).items():
        for name, nodes in constants.items():
            tensor = program.tensor(nodes[0])
            wanted = PREFIXES[kind] + name.replace(".", "_").lower()
            place = graph.placeholder(f"{wanted}_" if wanted in taken else wanted)
            place.meta["val"] = mode.from_tensor(tensor, static_shapes=True)
            copies |= dict.fromkeys(nodes, place)
            held[kind][name] = tensor
            persistent = True if kind is InputKind.BUFFER else None
            inputs.append(InputSpec(kind, TensorArgument(place.name), name, persistent))
    for node in program.graph.nodes:
        if node.op not in ("get_attr", "output"):
            copies[node] = copy_node(graph, node, copies)
        if node.op == "placeholder":
            inputs.append(InputSpec(InputKind.USER_INPUT, TensorArgument(copies[node].name), None))
    results: Any = program.graph.output_node().args[0]
    graph.output(tuple(copies[result] for result in results))
    state = held[InputKind.PARAMETER] | held[InputKind.BUFFER]
    return assemble(graph, inputs, state, held[InputKind.CONSTANT_TENSOR], example)


def assemble(
    graph: Graph,
    inputs: Sequence[InputSpec],
    state: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
    example: Example,
) -> ExportedProgram:
    """An ExportedProgram of a graph that takes tensors and returns a tuple of them.

    Args:
        inputs: one for each placeholder, in order.
        state, constants: the tensors of those placeholders that are no inputs of the user.
        example: of those that are: positional ones, then those by name.
    """
    results: Any = graph.output_node().args[0]
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(result.name), None) for result in results]
    # As torch.export has them: for the model itself it names no values.
    names = [spec.arg.name for spec in inputs if spec.kind is InputKind.USER_INPUT]
    call = ModuleCallSignature([], [], pytree.tree_structure(example), pytree.tree_structure(results), names)
    return ExportedProgram(
        root=Module(),
        graph=graph,
        graph_signature=ExportGraphSignature(list(inputs), outputs),
        state_dict=dict(state),
        range_constraints={},
        module_call_graph=[ModuleCallEntry("", call)],
        example_inputs=example,
        constants=dict(constants),
    )


def copy_node(graph: Graph, node: Node, copies: Mapping[Node, Any]) -> Node:
    """A copy at the end of a graph; an input has its argument's name, also where that is a builtin's ("input")."""
    copy = graph.node_copy(node, copies.__getitem__)
    if node.op == "placeholder":
        copy.name = str(node.target)
    return copy


def _by_kind(program: Program) -> dict[InputKind, dict[str, list[Node]]]:
    """The nodes that read each constant, by its name: parameters first, as torch.export has them."""
    buffers = dict(program.module.named_buffers(remove_duplicate=False))
    found: dict[InputKind, dict[str, list[Node]]] = {kind: {} for kind in PREFIXES}
    for node, tensor in program.constants():
        name = str(node.target)
        kind = InputKind.BUFFER if name in buffers else InputKind.CONSTANT_TENSOR
        kind = InputKind.PARAMETER if isinstance(tensor, Parameter) else kind
        found[kind].setdefault(name, []).append(node)
    return found


def _mode_of(program: Program) -> FakeTensorMode:
    """The one mode of the graph's shapes: converters mix no two."""
    modes = _modes(program)
    if len(modes) != 1:
        program.propagate()
        modes = _modes(program)
    (mode,) = modes
    return mode


def _modes(program: Program) -> set[FakeTensorMode]:
    values = [node.meta.get("val") for node in program.graph.nodes if node.op in ("placeholder", "call_function")]
    return {value.fake_mode for value in pytree.tree_leaves(values) if isinstance(value, FakeTensor)}
