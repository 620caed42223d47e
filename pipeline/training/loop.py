"""The loop of quantization-aware training: Adam with steps relative to what they change, and cosine decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.fx import GraphModule

from edgewright.calibration.keyed_file import KeyedFile
from edgewright.errors import TrainingError
from edgewright.pipeline.program import TensorSpec
from edgewright.pipeline.training.checkpoint import load_state, save_state
from edgewright.pipeline.training.losses import Sample, SampleLoss

SMALLEST = 1e-3  # of the size that a learning rate is relative to: a bias of zeros can still move
SAVED_EVERY = 50  # steps


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, and how many samples a step."""

    steps: int
    learning_rate: float
    batch_size: int
    seed: int


class Rounding(Protocol):
    """`learned_scales.LearnedScale`, as the loop uses it."""

    def hold(self, weight: torch.Tensor) -> None: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class Student:
    """A prepared graph with what trains in it.

    Args:
        weights: each steps by the learning rate times its own root mean square (Shazeer 2018, arXiv:1804.04235,
            section 8), so that folded batch norms and layers of any size train alike.
        scales: logarithms, relative already.
        constants: roundings of weights, each with what it rounds: done once a step, not once a sample.
    """

    module: GraphModule
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    weights: Mapping[str, nn.Parameter]
    scales: Mapping[str, nn.Parameter]
    constants: Sequence[tuple[Rounding, torch.Tensor]]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {**self.weights, **self.scales}

    def run(self, sample: Sample) -> dict[str, torch.Tensor]:
        results = self.module(*(sample[spec.name] for spec in self.inputs))
        return dict(zip((spec.name for spec in self.outputs), results, strict=True))


def train(
    student: Student,
    samples: Sequence[Sample],
    loss: SampleLoss,
    schedule: Schedule,
    file: KeyedFile | None,
    progress: Callable[[str], None],
) -> list[float]:
    """Train in place; the mean loss of every step.

    Gradients of a step's samples add up, one sample after the other: graphs are captured for one.

    Args:
        file: keeps the state; what it has already is not done again.
    Raises:
        TrainingError: a loss or a gradient is not finite; the file does not fit.
    """
    sizes = {
        name: max(float(weight.detach().square().mean().sqrt()), SMALLEST) for name, weight in student.weights.items()
    }
    parameters = student.parameters
    groups = [{"params": [parameter], "size": sizes.get(name, 1.0)} for name, parameter in parameters.items()]
    optimizer = torch.optim.Adam(groups)
    losses = load_state(file, parameters, optimizer) if file else []
    order = _order(len(samples), schedule)
    for step, numbers in enumerate(order):
        if step < len(losses):  # done before this run
            continue
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * group["size"] * (1 + math.cos(math.pi * step / schedule.steps)) / 2
        optimizer.zero_grad()
        losses.append(0.0)
        for rounding, weight in student.constants:
            rounding.hold(weight)
        for number in numbers:
            part = loss(student.run(samples[number]), samples[number]) / len(numbers)
            part.backward()  # type: ignore[no-untyped-call]
            losses[-1] += float(part.detach())
        for rounding, _ in student.constants:
            rounding.release()
        _check_finite(losses, parameters, schedule)
        optimizer.step()
        if len(losses) % SAVED_EVERY == 0 or len(losses) == schedule.steps:
            progress(f"training: step {len(losses)} of {schedule.steps}, loss {losses[-1]:.4g}")
            if file:
                save_state(file, parameters, optimizer, losses)
    return losses


def _order(count: int, schedule: Schedule) -> Iterator[list[int]]:
    """The samples of each step: all of them in a random order, then again in another."""
    generator = torch.Generator().manual_seed(schedule.seed)
    waiting: list[int] = []
    for _ in range(schedule.steps):
        while len(waiting) < min(schedule.batch_size, count):
            waiting += torch.randperm(count, generator=generator).tolist()
        taken, waiting = waiting[: schedule.batch_size], waiting[schedule.batch_size :]
        yield taken


def _check_finite(losses: list[float], parameters: Mapping[str, nn.Parameter], schedule: Schedule) -> None:
    gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if not math.isfinite(losses[-1] + norm):
        raise TrainingError(
            f"training diverged at step {len(losses)}",
            got=f"loss {losses[-1]}, gradient {norm}; the losses before: {[float(f'{x:.4g}') for x in losses[-4:-1]]}",
            expected="finite numbers",
            do="lower learning_rate, or look for NaN in the loss",
        )
