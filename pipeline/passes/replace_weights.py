"""Replace the weights of layers one by one, each with a look at its layer's inputs where that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import Tensor
from torch.fx import Node

from edgewright.calibration.lockstep import run_in_lockstep
from edgewright.pipeline.memory import give_back_freed
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.layer_weights import LayerWeight
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding.hessian import hessians_of

Option = TypeVar("Option")


def replace_weights(
    program: Program,
    context: Context,
    chosen: Mapping[Node, tuple[LayerWeight, Option]],
    store: Callable[[LayerWeight, Option, Tensor | None], Node],
    *,
    with_inputs: bool,
    weigh_rows: bool = True,
) -> None:
    """Each layer's weight becomes the node that `store` gives; one that several layers read is stored once.

    Args:
        chosen: by layer: its weight, and what is to be made of it.
        store: gets these, and the `hessians_of` the layer: None where it has none, and without inputs.
        with_inputs: run the calibration data along, so that each layer is seen with what the replaced ones before it
            give.
        weigh_rows: rows of the inputs count by what the program's outputs owe them.
    """
    stored: dict[tuple[str, int], Node] = {}
    influence = context.influence.of(program, chosen) if with_inputs and weigh_rows else {}

    def visit(found: LayerWeight, option: Option, inputs: list[tuple[Any, ...]]) -> None:
        key = found.key, found.axis
        if key not in stored:
            give_back_freed(program.tensor(found.constant).nbytes)
            hessians = hessians_of(found.layer, inputs, influence.get(found.layer)) if inputs else None
            stored[key] = store(found, option, hessians)
            del hessians
            give_back_freed(program.tensor(found.constant).nbytes)
        found.layer.update_arg(found.place, stored[key])

    if with_inputs:
        run_in_lockstep(program, context.batches, {layer: partial(visit, *entry) for layer, entry in chosen.items()})
    else:
        for found, option in chosen.values():
            visit(found, option, [])
    give_back_freed(sum(program.tensor(found.constant).nbytes for found, _ in chosen.values()))
