"""Put a captured graph on a device, its own tensors and those that it makes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgewright.errors import TrainingError

CPU = torch.device("cpu")


def find_device(name: str) -> torch.device:
    """The device of a name: "cpu", or the accelerator that this machine has ("cuda", "mps", ...).

    Raises:
        TrainingError: it is not there.
    """
    there = torch.accelerator.current_accelerator(check_available=True)
    known = ["cpu", *([there.type] if there else [])]
    if name not in known:
        raise TrainingError("this machine has no such device for training", got=name, expected=", ".join(known))
    return torch.device(name)


def place(module: GraphModule, device: torch.device) -> None:
    """Give the graph tensors of its own on `device`, none of which asks for a gradient, and make its nodes use them.

    The tensors that it had stay untouched: other programs share them.
    """
    memo: dict[int, Tensor] = {}
    for owner in module.modules():
        for name, old in [*owner._parameters.items(), *owner._buffers.items(), *vars(owner).items()]:
            if not isinstance(old, Tensor):
                continue
            new = memo.get(id(old))
            if new is None:
                new = old.detach().to(device)
                new = memo[id(old)] = nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new
            setattr(owner, name, new)
    for node in module.graph.nodes:
        if isinstance(node.kwargs.get("device"), torch.device):
            node.kwargs = {**node.kwargs, "device": device}
    module.recompile()
