"""Normalizations.

Source: coremltools 9, mil/ops/defs/iOS15/normalization.py; iOS17/normalization.py only lets parameters have
another dtype.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewright.targets.coreml.reference.activation import along_channels
from edgewright.targets.coreml.reference.registry import limit, mil


def _scale_and_shift(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    x = x if gamma is None else x * gamma
    return x if beta is None else x + beta


def _standardize(x: Tensor, axes: list[int], epsilon: Tensor) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + epsilon)


@mil("batch_norm")
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
) -> Tensor:
    scale = torch.rsqrt(variance + epsilon) * (1.0 if gamma is None else gamma)
    result = (x - along_channels(mean, x.dim())) * along_channels(scale, x.dim())
    return result if beta is None else result + along_channels(beta, x.dim())


@mil("instance_norm")
def instance_norm(x: Tensor, epsilon: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None) -> Tensor:
    gamma, beta = (None if each is None else along_channels(each, x.dim()) for each in (gamma, beta))
    return _scale_and_shift(_standardize(x, list(range(2, x.dim())), epsilon), gamma, beta)


@mil("l2_norm")
def l2_norm(x: Tensor, epsilon: Tensor) -> Tensor:
    """Over the last three dimensions."""
    return x / torch.sqrt(x.square().sum([-3, -2, -1], keepdim=True) + epsilon)


@mil("layer_norm")
def layer_norm(
    x: Tensor, axes: list[int], epsilon: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None
) -> Tensor:
    axes = [axis % x.dim() for axis in axes]
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    gamma, beta = (None if each is None else each.reshape(shape) for each in (gamma, beta))
    return _scale_and_shift(_standardize(x, axes, epsilon), gamma, beta)


@mil("local_response_norm")
def local_response_norm(x: Tensor, size: int, alpha: Tensor, beta: Tensor, k: Tensor) -> Tensor:
    """Over `size` neighbouring channels, zeros beyond the first and the last."""
    half = size // 2
    squares = F.pad(x.square().movedim(1, -1), [half, half]).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / torch.pow(k + alpha / size * squares, beta)


@limit("local_response_norm")
def centred_neighbours(op: Any) -> str | None:
    """Of two neighbours Apple's smoke test expects the element alone, and its stress test PyTorch's two."""
    return None if op.size.val % 2 else "an even size has no stated centre"
