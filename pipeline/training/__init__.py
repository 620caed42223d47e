"""Training of a graph with its rounding in place: what a user gives for it, the loss, the loop and its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

Loss = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Training:
    """What quantization-aware training works with.

    Args:
        data: samples as dicts of tensors: the model's inputs by name, and whatever the loss wants besides. Without
            any, the calibration batches train.
        loss: called with a sample's outputs by name and the sample; gives a scalar. None: the model before
            quantization is the teacher.
        checkpoint: a .safetensors file that keeps the state on the way; a run that stopped goes on from there.
    """

    data: Sequence[Mapping[str, Tensor]] = ()
    loss: Loss | None = None
    checkpoint: Path | None = None
