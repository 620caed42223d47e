"""Compress a program by a recipe: the public form of the pass runner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgewright.errors import CalibrationError
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.runner import Compressed, run_passes
from edgewright.pipeline.predicted_latency import PredictedLatency
from edgewright.pipeline.predictor import Run, run_program
from edgewright.pipeline.program import Program
from edgewright.pipeline.recipe import Recipe, build_passes
from edgewright.pipeline.training import Training


def compress(
    program: Program,
    recipe: Recipe,
    *,
    batches: Iterable[Mapping[str, Any] | Sequence[Any]] = (),
    seed: int = 0,
    statistics: str | Path | None = None,
    metric: Callable[[Run], float] | None = None,
    training: Training | None = None,
) -> Compressed:
    """Apply a recipe to a clone of `program`.

    Args:
        recipe: a TOML file with [[compress]] tables, or a list such as `[{"pass": "quantize", "scheme": "w8a8"}]`;
            an empty list means float32.
        batches: calibration data, dicts by input name or tuples in the inputs' order.
        statistics: a .safetensors file that keeps what calibration found: made when missing, reused when it is of this
            program and these batches.
        metric: called with a function from inputs by name to outputs by name, arrays of the program's own shapes; the
            higher its value, the better. Steps with `max_drop` hold to it.
        training: what `train-quantized` works with: samples, a loss, a checkpoint. Without, the batches train and the
            program is the teacher.
    Returns:
        `.program`, and `.reports`: each pass with what it did, what it left alone and what it warns of.
    Raises:
        RecipeError, DeviceError, PassError, CalibrationError, TrainingError.
    """
    passes = build_passes(recipe)
    latency = PredictedLatency()
    latency.check(passes)
    tensors = [fitting_tensors(batch, program) for batch in batches]
    file = None if statistics is None else Path(statistics)
    measure = None if metric is None else lambda candidate: float(metric(run_program(candidate)))
    context = Context(tensors, seed, file, metric=measure, training=_fitting(training, program), latency=latency)
    return run_passes(program, passes, context)


def _fitting(training: Training | None, program: Program) -> Training:
    """The same with the inputs of every sample checked; what else a sample has goes to the loss as it is."""
    if training is None:
        return Training()
    names = {spec.name for spec in program.inputs}
    data = [
        {
            **{name: value if isinstance(value, Tensor) else torch.as_tensor(value) for name, value in sample.items()},
            **fitting_tensors({name: value for name, value in sample.items() if name in names}, program),
        }
        for sample in training.data
    ]
    return replace(training, data=data)


def fitting_tensors(batch: Mapping[str, Any] | Sequence[Any], program: Program) -> dict[str, Tensor]:
    """A batch as tensors by name.

    Raises:
        CalibrationError: other names, another number of values, another shape or dtype, NaN or infinity.
        ShapeError: a size that an open dimension does not take.
    """
    names = [spec.name for spec in program.inputs]
    if not isinstance(batch, Mapping) and len(batch) != len(names):
        raise CalibrationError("a batch has another number of inputs", got=len(batch), expected=", ".join(names))
    values = dict(batch) if isinstance(batch, Mapping) else dict(zip(names, batch, strict=True))
    if sorted(values) != sorted(names):
        raise CalibrationError(
            "a batch has other names than the model's inputs",
            got=", ".join(sorted(values)),
            expected=", ".join(names),
        )
    found = {}
    for spec in program.inputs:
        value = values[spec.name]
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))
        fits = bool(program.dims) or tuple(tensor.shape) == spec.shape  # open shapes are checked together, below
        if not fits or str(tensor.dtype) != f"torch.{spec.dtype}":
            raise CalibrationError(
                f"a batch does not fit the input {spec.name!r}",
                got=f"{tensor.dtype} {tuple(tensor.shape)}",
                expected=f"torch.{spec.dtype} {spec.shape}",
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CalibrationError(f"a batch of the input {spec.name!r} has NaN or infinite values")
        found[spec.name] = tensor
    program.shapes.sizes(found)
    return found
