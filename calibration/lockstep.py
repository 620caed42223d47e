"""Run a graph over all calibration batches at once, node by node, with a look at chosen nodes before they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

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
            elif node.op == "call_function":
                if node in visits:
                    visits[node]([_arguments(program, node, run)[0] for run in runs])
                computed: dict[Node, Any] = {}  # of constants alone: the same in every batch
                for run in runs:
                    args, kwargs = _arguments(program, node, run, computed)
                    run[node] = node.target(*args, **kwargs)
            for source in node.all_input_nodes:
                if last.get(source) is node:
                    for run in runs:
                        run.pop(source, None)


def _arguments(
    program: Program, node: Node, run: Mapping[Node, Any], computed: dict[Node, Any] | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    known = computed if computed is not None else {}

    def value(source: Node) -> Any:
        if source in run:
            return run[source]
        if source not in known:
            if source.op == "get_attr":
                known[source] = program.tensor(source)
            else:  # a node that a visit put there
                args, kwargs = torch.fx.node.map_arg((source.args, source.kwargs), value)
                known[source] = source.target(*args, **kwargs)  # type: ignore[operator]
        return known[source]

    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), value)
    return tuple(args), dict(kwargs)
