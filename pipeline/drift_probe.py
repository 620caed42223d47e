"""Programs that show what lies inside of a program: with the layers' values as further outputs, or one layer alone."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from edgewright.pipeline.decompose_once import TRACES
from edgewright.pipeline.passes.annotate_int8 import CHAIN_ACTIVATIONS, FUSED_ACTIVATIONS, MOVES
from edgewright.pipeline.passes.graph import aten, insert_call, module_path
from edgewright.pipeline.passes.rounded_rows import CHOOSE, STEPS
from edgewright.pipeline.program import Program, TensorSpec, symbols_of

QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
UNARY = CHAIN_ACTIVATIONS | FUSED_ACTIVATIONS | {aten.gelu.default}
# What changes no number, makes none from the model's inputs, or is done by the kernel that reads it.
PASSED = MOVES | {
    DEQUANTIZE,
    CHOOSE,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.expand.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.split.Tensor,
    aten.unbind.int,
    aten.chunk.default,
    operator.getitem,
}
PREFIX = "layer_"


@dataclass(frozen=True)
class Probe:
    """A value to look at.

    Args:
        node: what holds it: a float or integer operation, or the quantize step behind one.
        layer: the operation that made it, as the user would name it (the convolution before a ReLU).
        scale: one quantization step, 0 where the value is not quantized.
    """

    node: Node
    layer: Node
    scale: float = 0.0

    @property
    def module(self) -> str:
        return module_path(self.layer)

    @property
    def op(self) -> str:
        return str(self.layer.target).removeprefix("aten.").split(".")[0]

    @property
    def name(self) -> str:
        """The graph's name of the layer, with the module that it comes from."""
        return f"{self.layer.name} ({self.module})" if self.module else self.layer.name


def find_probes(program: Program) -> list[Probe]:
    """The values worth a look, in the graph's order: behind the quantize step where there is one, so that a runtime
    can still compute the layer in integers; behind a fused activation; elsewhere the operation itself."""
    live: set[Node] = set(program.graph.find_nodes(op="placeholder"))
    found: list[Probe] = []
    for node in program.graph.nodes:
        if node.op != "call_function" or not live.intersection(node.all_input_nodes):
            continue
        live.add(node)
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or value.dtype == torch.bool or value.numel() == 0:
            continue
        if node.target == QUANTIZE:
            layer = _layer(node.args[0])
            if layer.op == "call_function":  # an input as it is rounded is no layer's work
                found.append(Probe(node, layer, float(node.args[1])))
        elif not _is_passed(node) and not _is_seen_later(node):
            found.append(Probe(node, _layer(node)))
    return found


def _is_passed(node: Node) -> bool:
    return node.target in PASSED or str(node.target) in STEPS


def _is_seen_later(node: Node) -> bool:
    """Its only reader quantizes it, or is an activation that runtimes fuse with it."""
    if len(node.users) != 1:
        return False
    reader = next(iter(node.users))
    return reader.target == QUANTIZE or reader.target in UNARY


def _layer(node: Any) -> Node:
    """Back over activations and moves to the operation that computes."""
    assert isinstance(node, Node), "a value is made by a node"
    found = node
    while (found.target in UNARY or _is_passed(found)) and found.all_input_nodes:
        found = found.all_input_nodes[0]
    return node if found.target == QUANTIZE or found.op != "call_function" else found


def with_probes(program: Program, probes: Sequence[Probe]) -> Program:
    """The program with the probes' values as further outputs "layer_0", "layer_1", ... (as many as the program's own
    names leave free). A quantized value gets a dequantize step of its own."""
    work = program.clone()
    nodes = {node.name: node for node in work.graph.nodes}
    output = work.graph.output_node()
    returned: list[Any] = list(output.args[0])  # type: ignore[arg-type]
    outputs = list(program.outputs)
    placeholders = work.graph.find_nodes(op="placeholder")
    symbols = symbols_of(placeholders, [spec.shape for spec in work.inputs]) if work.dims else {}
    for place, probe in enumerate(probes):
        node = nodes[probe.node.name]
        if probe.scale:
            node = insert_call(work, output, DEQUANTIZE, node, *node.args[1:], like=node)
        returned.append(node)
        outputs.append(TensorSpec.of(probe_name(program, place), node.meta["val"], symbols))
    output.args = (tuple(returned),)
    work.module.recompile()
    return replace(work, outputs=tuple(outputs))


def probe_name(program: Program, place: int) -> str:
    taken = {spec.name for spec in (*program.inputs, *program.outputs)}
    prefix = PREFIX
    while any(name.startswith(prefix) for name in taken):
        prefix = "_" + prefix
    return f"{prefix}{place}"


def upstream(probe: Probe, probes: Mapping[Node, Probe]) -> list[Probe]:
    """The nearest probes that a probe's value is computed from, in the order in which they are met."""
    found: dict[Node, Probe] = {}
    waiting, seen = list(probe.node.all_input_nodes), set()
    while waiting:
        node = waiting.pop(0)
        if node in probes:
            found[node] = probes[node]
        elif node not in seen:
            seen.add(node)
            waiting += node.all_input_nodes
    return list(found.values())


def layer_alone(
    program: Program, probe: Probe, before: Sequence[Probe], values: Mapping[Node, Tensor]
) -> tuple[Program, dict[str, Node]]:
    """A program from the values of the probes `before` (and the program's own inputs) to the probe's value.

    A quantized value comes in before its quantize step, which gives the same integers again.

    Args:
        values: by probed node or placeholder, an example of each; open sizes become theirs.
    Returns:
        The program, and which node's value each of its inputs takes.
    """
    if program.dims:
        fixed = _at_sizes_of(program, values)
        nodes = {node.name: node for node in fixed.graph.nodes}
        there = [replace(item, node=nodes[item.node.name]) for item in (probe, *before)]
        given = {nodes[node.name]: value for node, value in values.items()}
        alone, inputs = layer_alone(fixed, there[0], there[1:], given)
        origins = {node.name: node for node in program.graph.nodes}
        return alone, {name: origins[node.name] for name, node in inputs.items()}
    stops = {item.node for item in before}
    graph = Graph()
    sources: dict[str, Node] = {}
    wanted, waiting = {probe.node}, [probe.node]
    while waiting:
        node = waiting.pop()
        for source in node.all_input_nodes if node not in stops or node is probe.node else ():
            if source not in wanted:
                wanted.add(source)
                waiting.append(source)
    copies: dict[Node, Node] = {}
    ordered = [node for node in program.graph.nodes if node in wanted]
    for node in ordered:
        if node.op == "placeholder" or (node in stops and node is not probe.node):
            name = f"input_{len(sources)}"
            copies[node] = graph.placeholder(name)
            sources[name] = node
    for node in ordered:
        if node in stops and node is not probe.node:
            if node.target == QUANTIZE:
                copies[node] = graph.call_function(QUANTIZE, (copies[node], *node.args[1:]))
        elif node.op != "placeholder":
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    result = copies[probe.node]
    if probe.scale:
        result = graph.call_function(DEQUANTIZE, (result, *probe.node.args[1:]))
    graph.output((result,))
    for node in graph.nodes:  # shapes of the whole program's tracing do not mix with those of its own
        node.meta = {key: value for key, value in node.meta.items() if key in TRACES}
    specs = tuple(TensorSpec.of(name, values[node]) for name, node in sources.items())
    module = GraphModule(program.module, graph)
    example = tuple(values[node] for node in sources.values())
    with torch.no_grad():
        (value,) = module(*example)
    alone = Program(module, specs, (TensorSpec.of("value", value),), example)
    alone.propagate()
    return alone, sources


def _at_sizes_of(program: Program, values: Mapping[Node, Tensor]) -> Program:
    placeholders = program.graph.find_nodes(op="placeholder")
    inputs = {spec.name: values[node] for spec, node in zip(program.inputs, placeholders, strict=True)}
    return program.at(program.shapes.sizes(inputs))
