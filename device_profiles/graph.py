"""A compressed graph as an inspection: what the file of a target would state, without lowering anything.

So the predictor can be asked what a choice of schemes gains, long before a converter runs. The file has the last word:
what its converter adds is not in the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.low_precision import node_macs
from edgewright.pipeline.passes.graph import aten, is_floating
from edgewright.pipeline.program import Program, dtype_name
from edgewright.targets.accounting import Step, account
from edgewright.targets.base import Inspection

# What files call these; anything else goes by PyTorch's own name.
_NAMES = {
    "view": "reshape",
    "_unsafe_view": "reshape",
    "hardtanh": "clip",
    "permute": "transpose",
    "cat": "concat",
    "embedding": "gather",
    "quantize_per_tensor": "quantize",
    "quantize_per_channel": "quantize",
    "quantize_affine": "quantize",
    "dequantize_per_tensor": "dequantize",
    "dequantize_per_channel": "dequantize",
    "dequantize_affine": "dequantize",
}
# What converters make of one operation.
_PARTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "coreml": {"hardsigmoid": ("sigmoid_hard",), "hardswish": ("thresholded_relu", "sigmoid_hard", "mul")},
    "openvino": {"hardswish": ("hswish",)},
    "tflite": {"layer_norm": ("layer_norm",) * 7},
}
_FUSED = frozenset({aten.relu.default, aten.relu6.default, aten.hardtanh.default})


def inspect_program(program: Program, target: str) -> Inspection:
    """A program as its file would state it: with quantize and dequantize steps, or, in TFLite, integer operations.

    Operations have the names of the graph's nodes. Open sizes count as the largest.
    """
    program = program.at(program.shapes.largest) if program.dims else program
    parts = _PARTS.get(target, {})
    stated = _Integers(program, parts) if target == "tflite" else _Stated(program, parts)
    constants = {node.name: program.stored_as(node, tensor)[1] for node, tensor in program.constants()}
    values = (node for node in program.graph.nodes if node.name not in constants)
    sizes = {node.name: stated.bytes(node) for node in values if _tensor(node) is not None}
    return account(f"the graph, for {target}", list(stated.steps()), sizes, constants, program.weight_bytes())


@dataclass(frozen=True)
class _Stated:
    """The graph as it is: ONNX, OpenVINO and Core ML files have its quantize and dequantize steps."""

    program: Program
    parts: Mapping[str, tuple[str, ...]]

    @cached_property
    def nodes(self) -> list[Node]:
        return [node for node in self.program.graph.nodes if node.op == "call_function" and _tensor(node) is not None]

    def steps(self) -> Iterator[Step]:
        for node in self.nodes:
            reads = tuple(source.name for source in _sources(node))
            converts = _name(node) in ("quantize", "dequantize")
            yield from self.stated(node, "int8" if converts or _is_integer(node) else _dtype(node), reads)

    def stated(self, node: Node, compute: str, reads: tuple[str, ...]) -> Iterator[Step]:
        """An operation, or its parts: between these, values are floats."""
        parts = self.parts.get(_name(node), (_name(node),))
        for name in parts:
            kind = compute if len(parts) == 1 else _dtype(node)
            yield Step(node.name, name, kind, node_macs(node), reads, (node.name,))

    def bytes(self, node: Node) -> int:
        value = _tensor(node)
        return 0 if value is None else value.numel() * value.element_size()


@dataclass(frozen=True)
class _Integers(_Stated):
    """TFLite: an integer operation reads and writes integers; what is left of the other steps converts between."""

    @cached_property
    def integers(self) -> set[Node]:
        found = {node for node in self.nodes if _is_integer(node)}
        return found | {_behind(node) for node in found}

    def steps(self) -> Iterator[Step]:
        yield from self._layout_changes()
        made: dict[Node, Node] = {}  # a value, and what stands for it in the file
        for node in self.nodes:
            name, source = _name(node), _sources(node)[0] if _sources(node) else node
            if self._is_part_of(source, node):
                made[node] = made.get(source, source)
                continue
            reads = tuple(made.get(read, read).name for read in _sources(node))
            compute = (
                "int8" if node in self.integers else _dtype(source if name in ("quantize", "dequantize") else node)
            )
            yield from self.stated(node, compute, reads)

    def bytes(self, node: Node) -> int:
        value = _tensor(node)
        return value.numel() if value is not None and node in self.integers else super().bytes(node)

    def _is_part_of(self, source: Node, node: Node) -> bool:
        """Whether a node is no operation of its own: a fused activation, or a step around an integer operation."""
        if _name(node) == "quantize":
            return source in self.integers
        if _name(node) == "dequantize":
            return source.op == "get_attr" or all(user in self.integers for user in node.users)
        return node is not source and _behind(source) is node

    def _layout_changes(self) -> Iterator[Step]:
        """Images come with their channels first, and every kernel wants them last."""
        for node in self.program.graph.find_nodes(op="placeholder"):
            value = _tensor(node)
            if value is not None and value.dim() == 4 and value.shape[1] > 1:
                integer = all(_name(user) == "quantize" for user in node.users)
                moved, compute = (next(iter(node.users)), "int8") if integer else (node, _dtype(node))
                yield Step(f"{node.name}_layout", "transpose", compute, 0, (moved.name,), (moved.name,))


def _is_integer(node: Node) -> bool:
    """Whether a runtime computes it in integers: all that it reads is dequantized, its result quantized."""
    data = [source for source in node.all_input_nodes if is_floating(source) and source.op != "get_attr"]
    weights = [source for source in node.args[1:2] if node_macs(node) and isinstance(source, Node)]
    users = list(_behind(node).users)
    read = all(_name(source) == "dequantize" for source in (*data, *weights))
    return bool(data) and read and bool(users) and all(_name(user) == "quantize" for user in users)


def _name(node: Node) -> str:
    """Of the operation, as files have it."""
    name = str(node.target).split(".")[-2] if "." in str(node.target) else str(node.target)
    return _NAMES.get(name, name)


def _behind(node: Node) -> Node:
    """The activation that a runtime computes with a node, or the node itself."""
    user = next(iter(node.users)) if len(node.users) == 1 else node
    return user if user.target in _FUSED else node


def _sources(node: Node) -> list[Node]:
    """What it reads; a part of a split reads what was split."""
    split = [source for source in node.all_input_nodes if _tensor(source) is None]
    return split[0].all_input_nodes if split else node.all_input_nodes


def _tensor(node: Node) -> Tensor | None:
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


def _dtype(node: Node) -> str:
    value = _tensor(node)
    return "float32" if value is None else dtype_name(value.dtype)
