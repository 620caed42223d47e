"""Sampling an image at given points: resample, affine, crop_resize.

Source: coremltools 9, mil/ops/defs/iOS15/image_resizing.py, iOS16 (pad_value) and iOS17 (boxes); the expected
values of mil/ops/tests/iOS14 to iOS17/test_image_resizing.py; SamplingMode in
mlmodel/format/NeuralNetwork.proto.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgewright.targets.coreml.reference.registry import limit, mil
from edgewright.targets.coreml.reference.resize import grid
from edgewright.targets.coreml.reference.values import UnclearError

Extension = Callable[[Tensor, int], Tensor]


def _reflect(index: Tensor, size: int) -> Tensor:
    """|1, 2, 3| -> |2, 3, 2, 1, 2, 3, 2, 1, 2|"""
    period = max(1, 2 * (size - 1))
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def _symmetric(index: Tensor, size: int) -> Tensor:
    """|1, 2, 3| -> |3, 2, 1, 1, 2, 3, 3, 2, 1|"""
    index = index.remainder(2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def _clamped(index: Tensor, size: int) -> Tensor:
    return index.clamp(0, size - 1)


EXTENSIONS: dict[str, Extension] = {
    "constant": _clamped,
    "border": _clamped,
    "reflection": _reflect,
    "symmetric": _symmetric,
}


class Extended:
    """Images that go on beyond their borders.

    Args:
        images: (batch, channels, height, width).
        value: what stands beyond the borders of "constant".
    """

    def __init__(self, images: Tensor, mode: str, value: float) -> None:
        self.images, self.mode, self.value = images, mode, value

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The pixels at whole positions, (batch, points) each: (batch, channels, points)."""
        height, width = self.images.shape[-2:]
        extend = EXTENSIONS[self.mode]
        flat = extend(rows, height) * width + extend(columns, width)
        pixels = self.images.flatten(2).gather(2, flat[:, None].expand(-1, self.images.shape[1], -1))
        if self.mode != "constant":
            return pixels
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return torch.where(inside[:, None], pixels, torch.tensor(self.value))

    def bilinear(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Between the four pixels around each position."""
        top, left = rows.floor(), columns.floor()
        down, right = (rows - top)[:, None].float(), (columns - left)[:, None].float()
        top, left = top.long(), left.long()
        above = torch.lerp(self.at(top, left), self.at(top, left + 1), right)
        below = torch.lerp(self.at(top + 1, left), self.at(top + 1, left + 1), right)
        return torch.lerp(above, below, down)

    def nearest(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The pixel nearest to each position; halfway between two that differ is refused."""
        up = self.at((rows + 0.5).floor().long(), (columns + 0.5).floor().long())
        down = self.at((rows - 0.5).ceil().long(), (columns - 0.5).ceil().long())
        if not torch.equal(up, down):
            raise UnclearError("a point lies halfway between two pixels, and which is nearest is not stated")
        return up


def _positions(coordinates: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Pixel positions, float64. Aligned corners are the centres of the outer pixels, else their edges."""
    coordinates = coordinates.double()
    if mode == "unnormalized":
        return coordinates
    share = (coordinates + 1) / 2 if mode == "normalized_minus_one_to_one" else coordinates
    return share * (size - 1) if align_corners else share * size - 0.5


@mil("resample")
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """coordinates[b, h, w] holds (x, y), that is (column, row)."""
    height, width = x.shape[-2:]
    columns = _positions(coordinates[..., 0], width, coordinates_mode, align_corners).flatten(1)
    rows = _positions(coordinates[..., 1], height, coordinates_mode, align_corners).flatten(1)
    images = Extended(x, padding_mode, padding_value)
    sample = images.nearest if sampling_mode == "nearest" else images.bilinear
    return sample(rows, columns).reshape(*x.shape[:2], *coordinates.shape[1:3])


@mil("affine")
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """(x', y') = (a0 x + a1 y + a2, b0 x + b1 y + b2), from the output's coordinates to the input's."""
    down, across = torch.meshgrid(
        torch.linspace(-1, 1, output_height, dtype=torch.float64),
        torch.linspace(-1, 1, output_width, dtype=torch.float64),
        indexing="ij",
    )
    points = torch.stack([across, down, torch.ones_like(across)])
    moved = torch.einsum("bkp,phw->bhwk", transform_matrix.double().reshape(-1, 2, 3), points)
    moved = moved.expand(x.shape[0], -1, -1, -1)
    return resample(x, moved, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


def _ends(box: list[float], mode: str, scales: tuple[float, float]) -> list[tuple[float, float]]:
    """The first and last position of a box, of height and of width."""
    if mode.endswith("WIDTH_FIRST"):
        box = [box[1], box[0], box[3], box[2]]
    pairs = [(box[0], box[2]), (box[1], box[3])]
    if mode.startswith("CENTER_SIZE"):
        pairs = [(centre - size / 2, centre + size / 2) for centre, size in pairs]
    return [(first * scale, last * scale) for (first, last), scale in zip(pairs, scales, strict=True)]


def _box_grid(first: float, last: float, count: int, mode: str) -> Tensor:
    """The grid of `resize`, moved and stretched from the interval 0 .. size - 1 to first .. last."""
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        return first + grid(2, count, mode) * (last - first)
    if last < first:
        raise UnclearError(f"a box from {first} to {last} with sampling mode {mode}")
    steps = torch.arange(count, dtype=torch.float64)
    if mode == "DEFAULT":
        points = first + steps * (last - first + 1) / count
    else:
        points = first + (steps + 0.5) * max(1.0, last - first) / count
    return points.clamp(max=last)


@mil("crop_resize")
def crop_resize(
    x: Tensor,
    target_height: int,
    target_width: int,
    normalized_coordinates: bool,
    spatial_scale: float,
    box_coordinate_mode: str,
    sampling_mode: str,
    opset: int,
    pad_value: float = 0.0,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: list[int] | None = None,
) -> Tensor:
    """Bilinear samples of each box; since iOS 16 a point outside of the image is `pad_value` as a whole.

    Up to iOS 16 `roi` (N, 1, 4 or 5, 1, 1) holds the boxes, cut out of every image, or behind the index of
    their image; since iOS 17 `boxes` (N, 4) and `box_indices` (N) do.
    """
    height, width = x.shape[-2:]
    scales = ((height - 1) * spatial_scale, (width - 1) * spatial_scale)
    scales = scales if normalized_coordinates else (spatial_scale, spatial_scale)

    def cut(images: Tensor, box: list[float]) -> Tensor:
        (top, bottom), (left, right) = _ends(box, box_coordinate_mode, scales)
        down = _box_grid(top, bottom, target_height, sampling_mode)
        across = _box_grid(left, right, target_width, sampling_mode)
        inside = ((down >= 0) & (down <= height - 1))[:, None] & ((across >= 0) & (across <= width - 1))
        if opset < 16 and not bool(inside.all()):
            raise UnclearError("a box leaves the image, and before iOS 16 no value is stated there")
        rows, columns = torch.meshgrid(down, across, indexing="ij")
        every = (images.shape[0], -1)
        border = Extended(images, "border", 0.0)
        pixels = border.bilinear(rows.reshape(1, -1).expand(every), columns.reshape(1, -1).expand(every))
        return torch.where(inside, pixels.reshape(*images.shape[:2], *inside.shape), torch.tensor(pad_value))

    if roi is None:
        assert boxes is not None, "MIL asks for it since iOS 17"
        assert box_indices is not None, "MIL fills it in since iOS 17"
        pairs = zip(boxes.tolist(), box_indices, strict=True)
        return torch.cat([cut(x[index : index + 1], box) for box, index in pairs])
    rois: list[list[float]] = roi.reshape(roi.shape[0], -1).tolist()
    if len(rois[0]) == 4:
        return torch.stack([cut(x, box) for box in rois])
    return torch.stack([cut(x[int(index) : int(index) + 1], box) for index, *box in rois])


@limit("crop_resize")
def stated_box_grid(op: Any) -> str | None:
    if op.sampling_mode.val == "UNALIGN_CORNERS":
        return "sampling mode 'UNALIGN_CORNERS' is stated for whole images only"
    return None


@limit("affine")
def stated_affine_coordinates(op: Any) -> str | None:
    if not op.align_corners.val:
        return "align_corners false is not supported by Core ML"
    if 1 in (op.output_height.val, op.output_width.val):
        return "the coordinate of a single row or column is not stated"
    return None
