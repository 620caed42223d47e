"""The user's metric of the original, of a compressed graph, or of an artifact; for a part, inside its whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import nn

from edgewright.errors import ReleaseError
from edgewright.pipeline.naming import named_leaves
from edgewright.pipeline.predictor import Run, predictor, run_module
from edgewright.pipeline.sources import add_import_roots, call_user, load_callable, load_model


@dataclass(frozen=True)
class MetricInput:
    """What `predictor` needs to know of an input."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Metric:
    """A metric by name, with the inputs of the whole model and the folders where its module is found."""

    function: str
    inputs: tuple[MetricInput, ...]
    roots: tuple[str, ...]

    @staticmethod
    def of(content: dict[str, Any] | None) -> Metric | None:
        """From the plain data of a job."""
        if content is None:
            return None
        inputs = tuple(MetricInput(port["name"], tuple(port["shape"]), port["dtype"]) for port in content["inputs"])
        return Metric(content["function"], inputs, tuple(content["roots"]))


@dataclass(frozen=True)
class Swap:
    """The whole model around a part: how to build it, and the part's dotted path."""

    source: str
    checkpoint: str | None
    module: str


def metric_value(metric: Metric, run: Run, swap: Swap | None = None) -> float:
    """Call the user's metric with a predict function over `run`.

    Raises:
        ReleaseError: it raised, or gave no finite number.
    """
    add_import_roots(*map(Path, metric.roots))
    if swap is not None:
        model = load_model(swap.source, swap.checkpoint)
        run = run_module(replace_module(model, swap.module, run))
    value = call_user(load_callable(metric.function, "quality.metric"), metric.function, predictor(run, metric.inputs))
    if not isinstance(value, int | float | np.floating | np.integer) or not np.isfinite(value):
        raise ReleaseError("the metric has to return a finite number", got=repr(value), where=metric.function)
    return float(value)


def replace_module(model: nn.Module, path: str, run: Run) -> nn.Module:
    """Put `run` in the place of a submodule: the model then computes everything else itself."""
    parent, _, leaf = path.rpartition(".")
    original = model.get_submodule(path)
    setattr(model.get_submodule(parent), leaf, _Replaced(original, run))
    return model


class _Replaced(nn.Module):
    def __init__(self, original: nn.Module, run: Run) -> None:
        super().__init__()
        self.original, self.run = original, run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        inputs = bind_inputs(self.original, args, kwargs)
        found = self.run({name: value.detach().numpy() for name, value in inputs.items()})
        result = self.original(*args, **kwargs)  # for the structure that the caller expects
        names = [name for name, _ in named_leaves(result)]
        leaves, spec = pytree.tree_flatten(result)
        values = iter([torch.from_numpy(np.array(found[name])) for name in names])
        return pytree.tree_unflatten([next(values) if torch.is_tensor(leaf) else leaf for leaf in leaves], spec)


def bind_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a call by forward's argument names."""
    import inspect

    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    return {name: value for name, value in bound.arguments.items() if torch.is_tensor(value)}
