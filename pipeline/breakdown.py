"""What each module of a compressed program got: its schemes, its bytes, and its share of the error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.graph import module_path
from edgewright.pipeline.passes.layer_weights import WEIGHTS
from edgewright.pipeline.passes.rounded_rows import is_rounded_as_it_comes
from edgewright.pipeline.passes.stored_integers import stored_weight
from edgewright.pipeline.program import LOOK_UP, Program

MOST = 10


@dataclass(frozen=True)
class ModuleShare:
    """A module, with all below it.

    Args:
        schemes: how many layers got each.
        bytes: of its constants, as stored; float32_bytes: of the same module in the original.
        error_share: the noise at the outputs when this module alone is compressed, of the sum of all modules'.
    """

    module: str
    schemes: Mapping[str, int]
    bytes: int
    float32_bytes: int
    error_share: float


def break_down(
    original: Program,
    compressed: Program,
    floats: Mapping[str, Tensor],
    samples: Sequence[Mapping[str, Tensor]],
    most: int = MOST,
) -> tuple[ModuleShare, ...]:
    """At most `most` modules, as deep as that allows, in the graph's order.

    Args:
        floats: by layer's name, its weight before it was rounded, as the pass runner found it.
        samples: inputs to see the error on.
    """
    layers = {node: module_path(node) for node in compressed.graph.nodes if node.target in WEIGHTS}
    modules = _grouped(list(dict.fromkeys(layers.values())), most)
    exact = [original.run(sample) for sample in samples]
    now, before = _bytes_by_module(compressed, modules), _bytes_by_module(original, modules)
    alone = {module: _noise(exact, _alone(compressed, floats, module, modules), samples) for module in modules}
    total = sum(alone.values()) or 1.0
    found = []
    for module in modules:
        schemes: dict[str, int] = {}
        for layer in layers:
            if _is_below(layers[layer], module):
                scheme = scheme_of(compressed, layer)
                schemes[scheme] = schemes.get(scheme, 0) + 1
        found.append(ModuleShare(module, schemes, now.get(module, 0), before.get(module, 0), alone[module] / total))
    return tuple(found)


def scheme_of(program: Program, layer: Node) -> str:
    """The name of what a layer with a weight got, such as "w4g32" or "w8a8"."""
    place, axis = WEIGHTS[layer.target]  # type: ignore[index]
    weight, data = layer.args[place], layer.args[0]
    assert isinstance(weight, Node), "a tensor by schema"
    stored = stored_weight(program, weight)
    restored = str(data.target) if place == 1 and isinstance(data, Node) else ""
    activations = "a8-dynamic" if is_rounded_as_it_comes(data) else "a8" if "dequantize" in restored else ""
    if stored is None:
        if str(weight.target) == LOOK_UP:
            return f"p{(weight.all_input_nodes[1].meta['val'].shape[-2] - 1).bit_length()}"
        if weight.op == "call_function" and weight.all_input_nodes and weight.all_input_nodes[0].op == "get_attr":
            dtype = program.tensor(weight.all_input_nodes[0]).dtype
            if dtype in (torch.float16, torch.bfloat16):
                return "fp16" if dtype == torch.float16 else "bf16"
            return f"w{8 * dtype.itemsize}{activations}"
        return "fp32"
    width = stored.block[1 - axis] if len(stored.block) > 1 else 0
    group = f"g{width}" if 1 < width < stored.integers.shape[1 - axis] else ""
    return f"w{stored.bits}{group}{activations}"


def _grouped(paths: list[str], most: int) -> list[str]:
    """Prefixes of the paths, of as many parts as give at most `most` of them."""
    deepest = max((path.count(".") + 1 for path in paths), default=1)
    found: list[str] = []
    for depth in range(1, deepest + 1):
        cut = list(dict.fromkeys(".".join(path.split(".")[:depth]) for path in paths))
        if found and len(cut) > most:
            break
        found = cut
    return found


def _is_below(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.") or not module


def owner_of(node: Node, modules: Sequence[str]) -> str | None:
    """The module that a node belongs to: its own, or that of the nearest node before it that has one, or behind it."""
    for neighbors in (lambda one: one.all_input_nodes, lambda one: list(one.users)):
        seen, reached = {node}, [node]
        while reached:
            for one in reached:
                found = next((module for module in modules if _is_below(module_path(one), module)), None)
                if found is not None and one.op == "call_function":
                    return found
            reached = list(dict.fromkeys(other for one in reached for other in neighbors(one) if other not in seen))
            seen.update(reached)
    return None


def reader_of(value: Node) -> Node | None:
    """The layer that a rounded value is for; None where it is only passed on."""
    layers = (user for user in value.users if user.target in WEIGHTS)
    return next((layer for layer in layers if "dequantize" in str(layer.args[1])), None)


def _bytes_by_module(program: Program, modules: Sequence[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for node, tensor in {id(tensor): (node, tensor) for node, tensor in program.constants()}.values():
        owner = owner_of(node, modules)
        if owner is not None:
            sizes[owner] = sizes.get(owner, 0) + program.stored_as(node, tensor)[1]
    return sizes


def _noise(exact: Sequence[Mapping[str, Tensor]], program: Program, samples: Sequence[Mapping[str, Tensor]]) -> float:
    """Of all outputs, each in parts of its power."""
    found = [program.run(sample) for sample in samples]
    total = 0.0
    for name in (name for name, value in exact[0].items() if value.is_floating_point()):
        noise = sum(
            float((one[name] - other[name]).double().square().sum()) for one, other in zip(exact, found, strict=True)
        )
        power = sum(float(one[name].double().square().sum()) for one in exact)
        total += noise / power if power else noise
    return total


def _alone(compressed: Program, floats: Mapping[str, Tensor], module: str, modules: Sequence[str]) -> Program:
    """The program with one module as it is, and all others as they were before they were rounded."""
    work = compressed.clone()
    for node, value in list(rounded_values(work)):
        if owner_of(reader_of(node) or value, modules) != module:
            node.replace_all_uses_with(value)
    for node in list(work.graph.nodes):
        if node.target in WEIGHTS and node.name in floats and not _is_below(module_path(node), module):
            name = f"{node.name}_float"
            work.module.register_buffer(name, floats[node.name])
            with work.graph.inserting_before(node):
                node.update_arg(WEIGHTS[node.target][0], work.graph.get_attr(name))
    work.erase_dead()
    return work


def rounded_values(program: Program) -> Iterator[tuple[Node, Node]]:
    """Each value that is rounded, as (what restores it, what it was)."""
    for node in program.graph.nodes:
        source = node.args[0] if node.args else None
        if node.op != "call_function" or "dequantize" not in str(node.target) or not isinstance(source, Node):
            continue
        value = source.args[0] if source.args and "quantize" in str(source.target) else None
        if isinstance(value, Node):
            yield node, value
