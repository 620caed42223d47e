"""A program's way to another process of ours: its graph as plain data, its tensors in a file that is mapped there.

Such a file is trusted by who reads it (loading it can execute code): never a format to ship.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from operator import getitem
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.nn import Module

from edgewright.pipeline.exported import as_exported, is_plain
from edgewright.pipeline.program import LOOK_UP, Program, TensorSpec, flat_module, keep_open
from edgewright.pipeline.propagation import mark_propagated
from edgewright.pipeline.shapes import Dim


@dataclass(frozen=True)
class Ref:
    """A node among arguments."""

    name: str


@dataclass(frozen=True)
class Like:
    """What a shape's fake tensor is made from."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


def save_program(program: Program, path: Path) -> None:
    """Write a program for `load_program`; one with open sizes or nested graphs as torch.export does."""
    if not is_plain(program):
        torch.export.save(as_exported(program), path)
        return
    refer: Any = lambda node: Ref(node.name)  # noqa: E731  (map_arg is typed for nodes)
    nodes = [
        (node.op, node.name, str(node.target), map_arg((node.args, node.kwargs), refer), _notes(node))
        for node in program.graph.nodes
    ]
    tensors = program.tensors()
    buffers = set(dict(program.module.named_buffers(remove_duplicate=False)))
    torch.save({"nodes": nodes, "tensors": tensors, "buffers": buffers, "example": program.example}, path)


def load_program(
    path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], dims: tuple[Dim, ...] = ()
) -> Program:
    """Read what `save_program` wrote. Its tensors are mapped: they take memory when they are used."""
    exported_graphs = _exported_graphs(path)
    if not exported_graphs:
        saved = torch.load(path, mmap=True, weights_only=False)
        _register_operations(" ".join(target for _, _, target, *_ in saved["nodes"]))
        return Program(_module_of(saved), inputs, outputs, saved["example"])
    _register_operations(exported_graphs)
    exported = torch.export.load(path)
    module = flat_module(exported)
    if dims:
        keep_open(module)
    return Program(module, inputs, outputs, tuple(exported.example_inputs[0]), dims)


def _exported_graphs(path: Path) -> str:
    """The graphs of a file that torch.export wrote; none in one of ours."""
    with zipfile.ZipFile(path) as archive:
        graphs = [name for name in archive.namelist() if "/models/" in name and name.endswith(".json")]
        return "".join(archive.read(name).decode() for name in graphs)


def _register_operations(names: str) -> None:
    """Import what registers operations, for those alone that a program has."""
    if "torchao" in names:
        import torchao.quantization.quant_primitives  # noqa: F401
    if LOOK_UP in names:
        import edgewright.pipeline.look_up  # noqa: F401


def _notes(node: Node) -> dict[str, Any]:
    """Its shapes, and where in the user's model it comes from."""
    stack = node.meta.get("nn_module_stack") or {}
    notes = {
        "nn_module_stack": {key: (module, str(kind)) for key, (module, kind) in stack.items()},
        "stack_trace": node.meta.get("stack_trace"),
        "val": pytree.tree_map_only(
            Tensor, lambda value: Like(tuple(value.shape), value.stride(), value.dtype), node.meta.get("val")
        ),
    }
    return {key: value for key, value in notes.items() if value is not None}


def _module_of(saved: dict[str, Any]) -> GraphModule:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    graph = Graph()
    nodes: dict[str, Node] = {}
    for operation, name, target, arguments, notes in saved["nodes"]:
        args, kwargs = pytree.tree_map_only(Ref, lambda ref: nodes[ref.name], arguments)
        wanted = _operation(target) if operation == "call_function" else target
        node = nodes[name] = graph.create_node(operation, wanted, args, kwargs, name)
        with mode:
            notes["val"] = pytree.tree_map_only(
                Like, lambda like: torch.empty_strided(like.shape, like.strides, dtype=like.dtype), notes.get("val")
            )
        node.meta.update(notes)
    mark_propagated(graph)
    root = Module()
    for name, tensor in saved["tensors"].items():
        _put(root, name, tensor, name in saved["buffers"])
    return GraphModule(root, graph)


def _put(root: Module, name: str, tensor: Tensor, is_buffer: bool) -> None:
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, Module())
        root = root.get_submodule(part)
    if is_buffer:
        root.register_buffer(leaf, tensor)
    else:
        setattr(root, leaf, tensor)


def _operation(name: str) -> Any:
    if name == str(getitem):
        return getitem
    space, operation, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, space), operation), overload)
