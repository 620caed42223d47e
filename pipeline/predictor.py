"""The predict function that a metric calls: any number of samples in, the model's own batch size inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewright.calibration.batches import digest_of

if TYPE_CHECKING:
    from torch import nn

    from edgewright.calibration.batches import Port, Sample
    from edgewright.pipeline.program import Program

Arrays = dict[str, "np.ndarray[Any, Any]"]
Run = Callable[[Mapping[str, "np.ndarray[Any, Any]"]], Arrays]


def predictor(run: Run, ports: Sequence[Port]) -> Callable[[Mapping[str, Any]], Arrays]:
    """Loop `run` over the leading named dimension of the inputs and put the outputs together again.

    An output whose leading size is 1 in each run is concatenated; others (computed from unbatched inputs) are kept
    as the last run gave them.
    """
    batched = [port.name for port in ports if port.shape and isinstance(port.shape[0], str)]

    def predict(inputs: Mapping[str, Any]) -> Arrays:
        arrays = {
            port.name: np.asarray(inputs[port.name]).astype(port.dtype, casting="same_kind", copy=False)
            for port in ports
        }
        if not batched:
            return run(arrays)
        results = []
        for row in range(len(arrays[batched[0]])):
            results.append(
                run({name: array[row : row + 1] if name in batched else array for name, array in arrays.items()})
            )
        return {
            name: np.concatenate([result[name] for result in results])
            if value.ndim and value.shape[0] == 1
            else results[-1][name]
            for name, value in results[0].items()
        }

    return predict


class Recall:
    """`run`, where what it gave for `samples` is known already: metrics mostly ask about the validation samples.

    `missed` tells whether it was asked about anything else.
    """

    def __init__(self, run: Run, samples: Sequence[Sample], outputs: Sequence[Arrays]) -> None:
        self._run, self.missed = run, False
        self._known = {digest_of([sample]): found for sample, found in zip(samples, outputs, strict=True)}

    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        found = self._known.get(digest_of([dict(inputs)]))
        if found is not None:
            return {name: value.copy() for name, value in found.items()}
        self.missed = True
        return self._run(inputs)


def run_program(program: Program) -> Run:
    """The graph itself as a function on arrays. What it makes of its constants alone is computed once."""
    import torch

    program = _with_constants_computed(program)

    def run(inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        tensors = {spec.name: torch.from_numpy(np.ascontiguousarray(inputs[spec.name])) for spec in program.inputs}
        return {name: value.numpy() for name, value in program.run(tensors).items()}

    return run


def run_module(model: nn.Module) -> Run:
    """An nn.Module as a function on arrays; outputs are named as capture names them."""
    import torch

    from edgewright.pipeline.naming import named_leaves

    def run(inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        with torch.no_grad():
            result = model(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()})
        return {name: value.numpy() for name, value in named_leaves(result)}

    return run


def _with_constants_computed(program: Program) -> Program:
    """The same operations in the same order: quantized weights are not dequantized anew for every sample."""
    import torch

    work, values = program.clone(), {}
    module = work.module
    with torch.no_grad():
        for node in work.graph.nodes:
            read = node.all_input_nodes
            if node.op == "get_attr":
                values[node] = work.tensor(node)
            elif node.op == "call_function" and read and all(arg in values for arg in read):
                args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
    for node, value in values.items():
        if node.op == "call_function" and torch.is_tensor(value) and any(user not in values for user in node.users):
            module.register_buffer(f"computed_{node.name}", value)
            with work.graph.inserting_before(node):
                node.replace_all_uses_with(work.graph.get_attr(f"computed_{node.name}"))
    work.erase_dead()
    return work
