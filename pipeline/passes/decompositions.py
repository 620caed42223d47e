"""Rules for `DecomposeOperators`: operations in terms of more common ones, for the arguments that need it.

Each has the arguments of its operation in ATen's schema and returns what the operation returns, or NotImplemented where
formats take the operation as it is. Indices and pooling matrices are computed from sizes alone: constants, once folded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewright.pipeline.passes.decompose_operators import Rewritten
from edgewright.pipeline.passes.indexing_rules import find_one, look_up_bags

aten = torch.ops.aten


def reduce_named_axes(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """amax(x) -> amax(x, all axes): a converter insists on axes. Of one number it is that number."""

    def rule(data: Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Rewritten:
        if dim and data.dim():
            return NotImplemented
        return operation(data, list(range(data.dim())), keepdim) if data.dim() else aten.clone.default(data)

    return rule


def find_in_all(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """argmax(x) -> argmax(flatten(x), 0)."""

    def rule(data: Tensor, dim: int | None = None, keepdim: bool = False) -> Rewritten:
        if dim is not None and data.dim():
            return NotImplemented
        found = operation(data.reshape(-1), 0, False)
        return found.reshape([1] * data.dim() if keepdim else [])

    return rule


def pool_by_divisor(
    data: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Rewritten:
    """avg_pool2d(x, k, divisor_override=d) -> avg_pool2d(pad(x), k) * size(k) / d, the padding written out."""
    if divisor_override is None or not data.is_floating_point():
        return NotImplemented
    kernels, pads = list(kernel_size) * (2 // len(kernel_size)), list(padding) * (2 // len(padding))
    strides = list(stride) * (2 // len(stride)) if stride else kernels
    edges: list[int] = []
    for size, kernel, step, pad in zip(data.shape[-2:], kernels, strides, pads, strict=True):
        windows = (size + 2 * pad - kernel + (step - 1) * ceil_mode) // step + 1
        if ceil_mode and (windows - 1) * step >= size + pad:
            windows -= 1
        edges = [pad, max(0, (windows - 1) * step + kernel - size - pad), *edges]
    whole = F.avg_pool2d(F.pad(data, edges), kernels, strides)
    return whole * (math.prod(kernels) / divisor_override)


def pool_by_matrices(data: Tensor, output_size: Sequence[int]) -> Tensor:
    """adaptive_avg_pool3d(x, sizes) -> a matrix product an axis, whose rows average that axis's windows."""
    for axis, out in enumerate(output_size, start=data.dim() - len(output_size)):
        size = data.shape[axis]
        rows, columns = torch.arange(out).unsqueeze(1), torch.arange(size).unsqueeze(0)
        starts, ends = rows * size // out, ((rows + 1) * size + out - 1) // out
        means = ((columns >= starts) & (columns < ends)).to(data.dtype) / (ends - starts).to(data.dtype)
        moved = data.transpose(axis, -1)
        flat = torch.mm(moved.reshape(-1, size), means.transpose(0, 1))
        data = flat.reshape(*moved.shape[:-1], out).transpose(axis, -1)
    return data


def _norm(difference: Tensor, p: float) -> Tensor:
    """The p-norm over the last axis."""
    if p == 0:
        return (difference != 0).to(difference.dtype).sum(-1)
    size = difference.abs()
    if p == 1:
        return size.sum(-1)
    if p == 2:
        return (size * size).sum(-1).sqrt()
    if p == math.inf:
        return size.amax([-1])
    return size.pow(p).sum(-1).pow(1 / p)


def measure_all(one: Tensor, other: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """cdist(a, b, p) -> the norm of a[..., :, None, :] - b[..., None, :, :]."""
    return _norm(one.unsqueeze(-2) - other.unsqueeze(-3), p)


def measure_pairs(data: Tensor, p: float = 2.0) -> Tensor:
    """pdist(x, p) -> the norm of x[i] - x[j] over all i < j."""
    pairs = torch.triu_indices(data.shape[0], data.shape[0], 1)
    return _norm(data.index_select(0, pairs[0]) - data.index_select(0, pairs[1]), p)


def clamp_by_tensors(data: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    """clamp(x, a, b) -> minimum(maximum(x, a), b)."""
    kind = data.dtype
    for limit in (min, max):
        kind = kind if limit is None else torch.promote_types(kind, limit.dtype)
    data = data if data.dtype == kind else data.to(kind)
    low, high = (limit if limit is None or limit.dtype == kind else limit.to(kind) for limit in (min, max))
    data = data if low is None else torch.maximum(data, low)
    return data if high is None else torch.minimum(data, high)


def pick_diagonal(data: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """diagonal(x) -> index_select of the two axes, flattened into one."""
    moved = data.movedim((dim1, dim2), (-2, -1))
    rows, columns = moved.shape[-2:]
    length = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    first = -offset * columns if offset < 0 else offset
    flat = moved.reshape(*moved.shape[:-2], rows * columns)
    return flat.index_select(-1, torch.arange(length) * (columns + 1) + first)


def pick_strided(data: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """as_strided(x, sizes, strides) -> index_select of flatten(x), which is contiguous."""
    places = torch.arange(1) + (storage_offset or 0)
    for count, step in zip(size, stride, strict=True):
        places = (places.unsqueeze(1) + torch.arange(count) * step).reshape(-1)
    return data.reshape(-1).index_select(0, places).reshape(list(size))


def divide_positive(data: Tensor, other: Tensor | float) -> Tensor:
    """fmod(x, y) -> sign(x) * remainder(|x|, |y|): of positive numbers the two are the same."""
    size = other.abs() if isinstance(other, Tensor) else abs(other)
    return torch.sign(data) * torch.remainder(data.abs(), size)


def asinh_by_logarithm(data: Tensor) -> Tensor:
    """asinh(x) -> sign(x) * log1p(|x| + x^2 / (1 + sqrt(x^2 + 1))): no cancellation for small or negative x."""
    data = data if data.is_floating_point() else data.to(torch.float32)
    square = data * data
    return torch.sign(data) * torch.log1p(data.abs() + square / (1 + torch.sqrt(square + 1)))


def acosh_by_logarithm(data: Tensor) -> Tensor:
    """acosh(x) -> log(x + sqrt(x - 1) * sqrt(x + 1)), NaN below 1."""
    data = data if data.is_floating_point() else data.to(torch.float32)
    return torch.log(data + torch.sqrt(data - 1) * torch.sqrt(data + 1))


def sample_grid(*args: Any) -> Tensor:
    """grid_sampler_2d -> grid_sampler, the name that converters know."""
    sampled: Tensor = aten.grid_sampler.default(*args)
    return sampled


def divide_one(data: Tensor) -> Tensor:
    """reciprocal(x) -> 1 / x: Core ML's own `inverse` is 1 / (x + 1e-4)."""
    return torch.div(torch.ones((), dtype=data.dtype), data)  # `1.0 / data` would be a reciprocal again


def find_infinities(data: Tensor) -> Tensor:
    """isinf(x) -> |x| == inf."""
    data = data if data.is_floating_point() else data.to(torch.float32)
    return data.abs() == math.inf


def differ_in_truth(one: Tensor, other: Tensor) -> Tensor:
    """logical_xor(a, b) of numbers -> (a != 0) != (b != 0)."""
    return (one != 0) != (other != 0)


def drop_axes(data: Tensor, shape: Sequence[int]) -> Tensor:
    """reshape(x, []) -> squeeze(x): Core ML has no shape without axes to reshape to."""
    return NotImplemented if shape or not data.dim() else data.squeeze()


def select_of_scalar(data: Tensor, dim: int, index: Tensor) -> Rewritten:
    """index_select(x, 0, i) of a tensor without axes -> the same of one with a single axis."""
    if data.dim():
        return NotImplemented
    return data.reshape(1).index_select(0, index.reshape(1)).squeeze(0)


def scatter_in_order(data: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """masked_scatter(x, mask, source) -> where(mask, source[cumsum(mask) - 1], x)."""
    sizes = torch.broadcast_shapes(data.shape, mask.shape)  # type: ignore[no-untyped-call]
    places = mask.expand(sizes).reshape(-1).to(torch.int64).cumsum(0) - 1
    taken = source.reshape(-1).index_select(0, places.clamp(0, source.numel() - 1))
    return torch.where(mask, taken.reshape(sizes), data)


def repeat_once(data: Tensor, repeats: Sequence[int]) -> Tensor:
    """repeat(x) without amounts -> x."""
    return NotImplemented if repeats else data


def squeeze_nothing(data: Tensor, dim: Sequence[int]) -> Tensor:
    """squeeze(x, axes) where none has size 1 -> x."""
    return NotImplemented if any(data.shape[axis] == 1 for axis in dim if data.dim()) else data


def spread_by_definition(root: bool) -> Callable[..., Tensor]:
    """var(x, correction=c) -> the sum of (x - mean(x))^2 over n - c, 1 where none is given; std(x) -> its root."""

    def rule(
        data: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
    ) -> Tensor:
        axes = list(dim) if dim else list(range(data.dim()))
        away = data - data.mean(axes, keepdim=True)
        count = math.prod(data.shape[axis] for axis in axes) - (1 if correction is None else correction)
        spread = (away * away).sum(axes, keepdim) / max(count, 0.0)
        return spread.sqrt() if root else spread

    return rule


def normalize_layer(
    data: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """native_layer_norm -> layer_norm, and the statistics by their definition."""
    axes = list(range(data.dim() - len(shape), data.dim()))
    mean = data.mean(axes, keepdim=True)
    spread = torch.rsqrt((data - mean).pow(2).mean(axes, keepdim=True) + eps)
    return F.layer_norm(data, list(shape), weight, bias, eps), mean, spread


def normalize_groups(
    data: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, hw: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """native_group_norm -> group_norm, and the statistics by their definition."""
    grouped = data.reshape(n, groups, -1)
    mean = grouped.mean([-1])
    spread = torch.rsqrt((grouped - mean.unsqueeze(-1)).pow(2).mean([-1]) + eps)
    return F.group_norm(data, groups, weight, bias, eps), mean, spread


def normalize_by_square(
    data: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """rms_norm(x, w) -> x * rsqrt(mean(x^2) + eps) * w."""
    axes = list(range(-len(normalized_shape), 0))
    smallest = torch.finfo(data.dtype).eps if eps is None else eps
    normal = data * torch.rsqrt((data * data).mean(axes, keepdim=True) + smallest)
    return normal if weight is None else normal * weight


def shuffle_channels(data: Tensor, groups: int) -> Tensor:
    """channel_shuffle(x, g) -> a transposition of (g, channels / g)."""
    batch, channels, *rest = data.shape
    return data.reshape(batch, groups, channels // groups, -1).transpose(1, 2).reshape(batch, channels, *rest)


def crop_transposed(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """conv_transpose(x, padding=p) -> the whole of conv_transpose(x), without its first and last p elements an axis."""

    def crop(
        data: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] = (0,),
        output_padding: Sequence[int] = (0,),
        groups: int = 1,
        dilation: Sequence[int] = (1,),
    ) -> Rewritten:
        axes = weight.dim() - 2
        steps, starts, more, gaps = (
            list(sizes) * (axes // len(sizes)) for sizes in (stride, padding, output_padding, dilation)
        )
        if not any(starts) or any(extra > start for extra, start in zip(more, starts, strict=True)):
            return NotImplemented
        whole = operation(data, weight, bias, steps, [0] * axes, [0] * axes, groups, gaps)
        for axis, (start, extra) in enumerate(zip(starts, more, strict=True), start=2):
            whole = whole.narrow(axis, start, whole.shape[axis] - 2 * start + extra)
        return whole

    return crop


def add_product(multiply: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """addmm of integers -> beta * bias + alpha * multiply(a, b)."""

    def rule(bias: Tensor, one: Tensor, other: Tensor, *, beta: float = 1, alpha: float = 1) -> Rewritten:
        if bias.is_floating_point():
            return NotImplemented
        product = multiply(one, other)
        return (bias if beta == 1 else bias * beta) + (product if alpha == 1 else product * alpha)

    return rule


def sum_of_one(data: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Rewritten:
    """cumsum(x) of a tensor without axes -> x."""
    if data.dim():
        return NotImplemented
    return data.to(dtype or (data.dtype if data.is_floating_point() else torch.int64))


EVERYWHERE = (
    (aten._adaptive_avg_pool3d.default, pool_by_matrices),
    (aten.adaptive_avg_pool3d.default, pool_by_matrices),
    (aten.avg_pool2d.default, pool_by_divisor),
    (aten.cdist.default, measure_all),
    (aten._cdist_forward.default, measure_all),
    (aten.pdist.default, measure_pairs),
    (aten._pdist_forward.default, measure_pairs),
    (aten.embedding_bag.padding_idx, look_up_bags),
    (aten.topk.default, find_one),
)
"""What no converter takes, or what each gets wrong for rare arguments."""
