"""What a layer's inputs say about its weights: which errors of them add up at its output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.graph import aten

CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default)


def hessians_of(
    layer: Node, inputs: Iterable[tuple[object, ...]], influence: Sequence[Tensor] | None = None
) -> Tensor | None:
    """The mean of x x^T over all that a layer multiplies its weight rows with, for each group of rows that read the
    same inputs: float32, (groups, columns, columns). A grouped convolution has as many, every other layer one.

    Args:
        inputs: the layer's arguments in each batch.
        influence: how much each x counts, in each batch: float32, (rows,), in any unit; None: all the same.
    Returns:
        None for layers that multiply with no rows of inputs (embeddings, transposed convolutions).
    Source: Frantar 2023, arXiv:2210.17323, section 3 (without the factor 2, which changes nothing).
    """
    total: Tensor | None = None
    count = 0.0
    for place, arguments in enumerate(inputs):
        rows = _rows(layer, arguments)
        if rows is None:
            return None
        counted = torch.ones(rows.shape[1]) if influence is None else influence[place]
        if total is None:
            total = torch.zeros(len(rows), rows.shape[2], rows.shape[2])
        total.baddbmm_((rows * counted[:, None]).transpose(1, 2), rows)  # in place: it may be larger than the weight
        count += float(counted.sum())
    return None if total is None or not count else total.div_(count)


def hessian_of(
    layer: Node, inputs: Iterable[tuple[object, ...]], influence: Sequence[Tensor] | None = None
) -> Tensor | None:
    """That of `hessians_of` where all rows read the same inputs: float32, (columns, columns); None elsewhere."""
    found = hessians_of(layer, inputs, influence)
    return found[0] if found is not None and len(found) == 1 else None


def _rows(layer: Node, arguments: tuple[object, ...]) -> Tensor | None:
    """What a layer multiplies its weight rows with: float32, (groups, rows, columns)."""
    data, weight = arguments[0], arguments[1]
    if not isinstance(data, Tensor) or not isinstance(weight, Tensor):
        return None
    if layer.target is aten.linear.default:
        return data.reshape(1, -1, data.shape[-1]).float()
    if layer.target not in CONVOLUTIONS:
        return None
    groups = int(arguments[6]) if len(arguments) > 6 else 1  # type: ignore[call-overload]
    axes = weight.dim() - 2
    stride, padding, dilation = (
        [*(arguments[place] if len(arguments) > place else [default])] * 2  # type: ignore[misc]
        for place, default in ((3, 1), (4, 0), (5, 1))
    )
    if axes == 1:
        data, weight = data.unsqueeze(2), weight.unsqueeze(2)
        stride, padding, dilation = [1, stride[0]], [0, padding[0]], [1, dilation[0]]
    windows = F.unfold(
        data.float(), tuple(weight.shape[2:]), tuple(dilation[:2]), tuple(padding[:2]), tuple(stride[:2])
    )
    samples, columns, places = windows.shape  # channels come first in the columns: each group's lie together
    split = windows.reshape(samples, groups, columns // groups, places)
    return split.permute(1, 0, 3, 2).reshape(groups, samples * places, columns // groups)


def output_error(difference: Tensor, hessian: Tensor) -> float:
    """The squared error at the output for an error of the weight, (rows, columns), a mean over the inputs."""
    return float(((difference @ hessian) * difference).sum())
