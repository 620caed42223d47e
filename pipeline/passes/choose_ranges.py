"""Let the data decide, where more than one observer could set the ranges of activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgewright.calibration.observers import CANDIDATES

if TYPE_CHECKING:
    from edgewright.pipeline.passes.observe_values import PerTensorObserver

SAMPLES = 8


def choose_ranges(
    prepared: GraphModule, observers: Sequence[PerTensorObserver], batches: Sequence[Sequence[Tensor]]
) -> tuple[str, ...]:
    """Give the calibrated observers of "best" the candidate with which the outputs err least, one for all of them.

    Returns a sentence that says which, and with what error; nothing where there was no choice. Measured on up to 8 of
    the batches, with activations rounded and weights as they are: the weights' error is the same for all. A range that
    clips errs less inside; what that does to the outputs no single value can tell.
    """
    undecided = [observer for observer in observers if observer.candidates]
    if not undecided:
        return ()
    samples = batches[:: -(-len(batches) // SAMPLES)]
    expected = _outputs(prepared, observers, samples, rounding=False)
    noises = {}
    for name in CANDIDATES:
        for observer in undecided:
            observer.choose(name)
        noises[name] = _noise(expected, _outputs(prepared, observers, samples, rounding=True))
    chosen = min(CANDIDATES, key=noises.__getitem__)
    for observer in undecided:
        observer.choose(chosen)
    found = ", ".join(f"{_decibels(noise, len(expected))} with {name}" for name, noise in noises.items())
    return (f"{chosen} for {len(undecided)} ranges of convolutional chains; SQNR of the outputs: {found}",)


def _decibels(noise: float, outputs: int) -> str:
    return f"{10 * math.log10(outputs / noise):.1f} dB" if noise else "exact"


def _outputs(
    prepared: GraphModule,
    observers: Sequence[PerTensorObserver],
    samples: Sequence[Sequence[Tensor]],
    *,
    rounding: bool,
) -> list[Tensor]:
    """The floating-point outputs, each of all samples: float32, flat."""
    for observer in observers:
        observer.rounding = rounding
    with torch.no_grad():
        found = [[out for out in prepared(*sample) if out.is_floating_point()] for sample in samples]
    return [torch.cat([out.flatten() for out in outputs]) for outputs in zip(*found, strict=True)]


def _noise(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Squared error over squared value, summed over the outputs."""
    pairs = zip(expected, found, strict=True)
    return float(sum((out - right).square().sum() / right.square().sum().clamp_min(1e-30) for right, out in pairs))
