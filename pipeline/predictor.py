"""The predict function that a metric calls: any number of samples in, the model's own batch size inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from edgewright.calibration.batches import Port
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


def run_program(program: Program) -> Run:
    """The graph itself as a function on arrays."""
    import torch

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
