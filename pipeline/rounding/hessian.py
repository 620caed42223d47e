"""What a layer's inputs say about its weights: which errors of them add up at its output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.graph import aten

CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default)


def hessian_of(
    layer: Node, inputs: Iterable[tuple[object, ...]], influence: Sequence[Tensor] | None = None
) -> Tensor | None:
    """The mean of x x^T over all that a layer multiplies its weight rows with: float32, (columns, columns).

    Args:
        inputs: the layer's arguments in each batch.
        influence: how much each x counts, in each batch: float32, (rows,), in any unit; None: all the same.
    Returns:
        None for layers whose rows read different inputs (grouped convolutions, embeddings).
    Source: Frantar 2023, arXiv:2210.17323, section 3 (without the factor 2, which changes nothing).
    """
    total: Tensor | None = None
    count = 0.0
    for place, arguments in enumerate(inputs):
        rows = _rows(layer, arguments)
        if rows is None:
            return None
        if influence is not None:
            counted = influence[place]
            product, count = (rows * counted[:, None]).T @ rows, count + float(counted.sum())
        else:
            product, count = rows.T @ rows, count + len(rows)
        total = product if total is None else total.add_(product)
    return None if total is None or not count else total / count


def _rows(layer: Node, arguments: tuple[object, ...]) -> Tensor | None:
    data, weight = arguments[0], arguments[1]
    if not isinstance(data, Tensor) or not isinstance(weight, Tensor):
        return None
    if layer.target is aten.linear.default:
        return data.reshape(-1, data.shape[-1]).float()
    if layer.target not in CONVOLUTIONS or (len(arguments) > 6 and arguments[6] != 1):
        return None
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
    return windows.transpose(1, 2).reshape(-1, windows.shape[1])


def output_error(difference: Tensor, hessian: Tensor) -> float:
    """The squared error at the output for an error of the weight, (rows, columns), a mean over the inputs."""
    return float(((difference @ hessian) * difference).sum())
