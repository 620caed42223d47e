"""Non-maximum suppression.

Source: coremltools 9, mil/ops/defs/iOS15/tensor_operation.py and iOS17/tensor_operation.py, and the reference
in mil/ops/tests/iOS14/test_tensor_operation.py, which also gives the padding (zeros, and indices of -1), the
class of a box (that of its best score), and that the best box is kept where no score reaches the threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgewright.targets.coreml.reference.registry import mil


def _overlaps(boxes: Tensor) -> Tensor:
    """Intersection over union of each pair; boxes are (centre x, centre y, width, height). 0 where both are
    empty."""
    centres, sizes = boxes[:, :2], boxes[:, 2:]
    low, high = centres - sizes / 2, centres + sizes / 2
    sides = torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)
    common = sides.clamp(min=0).prod(-1)
    areas = sizes.prod(-1)
    union = areas[:, None] + areas - common
    return torch.where(union > 0, common / union, 0.0)


def _selected(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, most: int, per_class: bool
) -> Tensor:
    """Indices of the kept boxes of one image, best first."""
    best, classes = scores.max(-1)
    overlaps = _overlaps(boxes)
    rivals = overlaps > iou_threshold
    if per_class:
        rivals &= classes[:, None] == classes
    kept: list[int] = []
    for index in torch.argsort(best, descending=True, stable=True).tolist():
        if float(best[index]) < score_threshold or len(kept) == most:
            break
        if not bool(rivals[index, kept].any()):
            kept.append(index)
    return torch.tensor(kept or [int(best.argmax())])


def _padded(rows: Tensor, count: int, value: int) -> Tensor:
    filler = torch.full((count - rows.shape[0], *rows.shape[1:]), value, dtype=rows.dtype)
    return torch.cat([rows, filler])


@mil("non_maximum_suppression")
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    per_class_suppression: bool,
    opset: int,
    score_threshold: float = float("-inf"),
) -> tuple[Tensor, ...]:
    """The kept boxes, their scores and indices, and before iOS 17 their number; since iOS 17 boxes stand
    last."""
    if opset >= 17:
        boxes, scores = boxes.mT, scores.mT
    each = [
        _selected(image, marks, iou_threshold, score_threshold, max_boxes, per_class_suppression)
        for image, marks in zip(boxes, scores, strict=True)
    ]
    kept_boxes = torch.stack([_padded(image[kept], max_boxes, 0) for image, kept in zip(boxes, each, strict=True)])
    kept_scores = torch.stack([_padded(marks[kept], max_boxes, 0) for marks, kept in zip(scores, each, strict=True)])
    indices = torch.stack([_padded(kept, max_boxes, -1) for kept in each])
    if opset >= 17:
        return kept_boxes.mT, kept_scores.mT, indices
    return kept_boxes, kept_scores, indices, torch.tensor([kept.numel() for kept in each])
