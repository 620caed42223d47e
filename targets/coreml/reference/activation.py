"""Activations.

Source: coremltools 9, mil/ops/defs/iOS15/activation.py; iOS17/activation.py only lets alpha and beta have
another dtype.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewright.targets.coreml.reference.registry import mil


def along_channels(vector: Tensor, rank: int) -> Tensor:
    """A vector over the channels (axis 1) of a tensor of `rank`, ready to broadcast."""
    return vector.reshape(-1, *[1] * (rank - 2))


@mil("clamped_relu")
def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.where(x >= 0, x, alpha * x), beta)


@mil("elu")
def elu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x))


@mil("gelu")
def gelu(x: Tensor, mode: str) -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@mil("leaky_relu")
def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= 0, x, alpha * x)


@mil("linear_activation")
def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * x + beta


@mil("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, along_channels(alpha, x.dim()) * x)


@mil("relu")
def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


@mil("relu6")
def relu6(x: Tensor) -> Tensor:
    return torch.clamp(x, 0, 6)


@mil("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * torch.tanh(beta * x)


@mil("sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@mil("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


@mil("silu")
def silu(x: Tensor) -> Tensor:
    return F.silu(x)


@mil("softmax")
def softmax(x: Tensor, axis: int) -> Tensor:
    return torch.softmax(x, axis)


@mil("softplus")
def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


@mil("softplus_parametric")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    scaled = along_channels(beta, x.dim()) * x
    return along_channels(alpha, x.dim()) * torch.logaddexp(scaled, torch.zeros_like(scaled))


@mil("softsign")
def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


@mil("thresholded_relu")
def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= alpha, x, 0)
