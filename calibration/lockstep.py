"""Run a graph over all calibration batches at once, node by node, with a look at chosen nodes before they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.stored_integers import stored_weight
from edgewright.pipeline.program import Program

Visit = Callable[[list[tuple[Any, ...]]], None]


def run_in_lockstep(program: Program, batches: Sequence[Mapping[str, Tensor]], visits: Mapping[Node, Visit]) -> None:
    """Every batch has passed all nodes before a node when its visit is called.

    A visit may give its node other constants, also through new nodes before it: what follows sees their effect. So
    layers can be changed one by one, each on what the changed ones before it give. A value is dropped behind its last
    reader.

    Args:
        visits: by node; called with the node's arguments in each batch.
    """
    nodes = list(program.graph.nodes)
    last = {source: node for node in nodes for source in node.all_input_nodes}
    runs: list[dict[Node, Any]] = [{} for _ in batches]
    specs = iter(program.inputs)
    with torch.no_grad():
        for node in nodes:
            if node.op == "placeholder":
                name = next(specs).name
                for run, batch in zip(runs, batches, strict=True):
                    run[node] = batch[name]
            elif node in visits or _varies(node, runs):
                _step(program, node, runs, visits.get(node))
            for source in node.all_input_nodes:
                if last.get(source) is node:
                    for run in runs:
                        run.pop(source, None)


def _varies(node: Node, runs: Sequence[Mapping[Node, Any]]) -> bool:
    """Whether it computes something that depends on the batch."""
    return node.op == "call_function" and any(source in run for run in runs[:1] for source in node.all_input_nodes)


def _step(program: Program, node: Node, runs: Sequence[dict[Node, Any]], visit: Visit | None) -> None:
    if visit is not None:
        visit([args for args, _ in _arguments(program, node, runs)])
    for run, (args, kwargs) in zip(runs, _arguments(program, node, runs), strict=True):
        run[node] = node.target(*args, **kwargs)  # type: ignore[operator]


def _arguments(
    program: Program, node: Node, runs: Iterable[Mapping[Node, Any]]
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Those of a node in each batch. What is made of constants alone is computed once for all, and kept no longer."""
    computed: dict[Node, Any] = {}

    def value(run: Mapping[Node, Any], source: Node) -> Any:
        if source in run:
            return run[source]
        if source.op == "get_attr":
            return program.tensor(source)
        if source not in computed:
            if (stored := stored_weight(program, source)) is not None:  # its operation takes four times the memory
                computed[source] = stored.restored
                return computed[source]
            args, kwargs = torch.fx.node.map_arg((source.args, source.kwargs), partial(value, run))
            computed[source] = source.target(*args, **kwargs)  # type: ignore[operator]
        return computed[source]

    for run in runs:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), partial(value, run))
        yield tuple(args), dict(kwargs)
    computed.clear()  # `value` knows itself: it would keep them until cycles are collected
