"""The state of a training run in a file: one that stopped goes on as if it had not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from edgewright.calibration.keyed_file import KeyedFile
from edgewright.errors import TrainingError

FORMAT = "edgewright training checkpoint 1"
OTHER = {
    "format": "is in another format",
    "program": "is of another program (another model, checkpoint or recipe)",
    "data": "is of other data",
    "settings": "is of other settings",
}
MEANS = ("exp_avg", "exp_avg_sq")  # Adam's, of the gradient and of its square


def checkpoint_file(path: Path, program: str, data: str, settings: str) -> KeyedFile:
    """A file that is good for one program, one set of data and one set of settings; the first two are digests."""
    keys = {"format": FORMAT, "program": program, "data": data, "settings": settings}
    return KeyedFile(path, "training checkpoint", keys, OTHER, "training.checkpoint", TrainingError)


def save_state(
    file: KeyedFile, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Adam, losses: list[float]
) -> None:
    """Keep what is trained, the optimizer's means and the loss of every step done."""
    tensors = {"losses": torch.tensor(losses, dtype=torch.float64)}
    for name, parameter in parameters.items():
        tensors[f"{name}/value"] = parameter.detach().cpu().clone()
        for mean in MEANS:
            if parameter in optimizer.state:  # one that got no gradient yet has none
                tensors[f"{name}/{mean}"] = optimizer.state[parameter][mean].cpu().clone()
    file.write(tensors)


def load_state(file: KeyedFile, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Adam) -> list[float]:
    """Put back what `save_state` kept; the losses of the steps done, none without a file."""
    tensors = file.read()
    if not tensors:
        return []
    losses: list[float] = tensors["losses"].tolist()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"{name}/value"])
            means = {
                mean: tensors[f"{name}/{mean}"].to(parameter.device) for mean in MEANS if f"{name}/{mean}" in tensors
            }
            if means:
                optimizer.state[parameter] = {"step": torch.tensor(float(len(losses))), **means}
    return losses
