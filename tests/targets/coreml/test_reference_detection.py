"""Non-maximum suppression, by hand and against a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference_programs import Array, assert_close, mb, run

from edgewright.targets.coreml.reference.detection import _overlaps

BOXES = np.float32([[[2, 2, 2, 2], [2.5, 2, 2, 2], [6, 6, 2, 2], [2, 2, 2.2, 2]]])
SCORES = np.float32([[[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.5]]])


def suppressed(opset: str, folder: Path, **parameters: object) -> list[Array]:
    """Results with the boxes in the second dimension, for both layouts."""
    newer = opset >= "iOS17"
    inputs = {"boxes": BOXES.swapaxes(1, 2), "scores": SCORES.swapaxes(1, 2)} if newer else {}
    inputs = inputs or {"boxes": BOXES, "scores": SCORES}
    if not newer:
        parameters = {"score_threshold": 0.65, **parameters}

    def build(boxes: object, scores: object) -> object:
        return mb.non_maximum_suppression(boxes=boxes, scores=scores, iou_threshold=0.5, **parameters)

    boxes, scores, *others = run(build, inputs, folder, opset)
    return [boxes.swapaxes(1, 2), scores.swapaxes(1, 2), *others] if newer else [boxes, scores, *others]


def test_overlap_is_intersection_over_union() -> None:
    import torch

    boxes = torch.tensor([[2.0, 2, 2, 2], [3, 2, 2, 2], [9, 9, 0, 0]])
    np.testing.assert_allclose(_overlaps(boxes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]], rtol=1e-6)


def test_lower_boxes_are_dropped_and_the_rest_is_padded(tmp_path: Path) -> None:
    """Box 1 overlaps box 0 by 3/5, box 3 is below the threshold: 0 and 2 stay."""
    boxes, scores, indices, number = suppressed("iOS15", tmp_path, max_boxes=3)
    np.testing.assert_array_equal(indices, [[0, 2, -1]])
    np.testing.assert_array_equal(number, [2])
    assert_close([boxes, scores], [np.pad(each[:, [0, 2]], [(0, 0), (0, 1), (0, 0)]) for each in (BOXES, SCORES)], 0)


def test_classes_do_not_suppress_each_other(tmp_path: Path) -> None:
    _, _, indices, number = suppressed("iOS15", tmp_path, max_boxes=4, per_class_suppression=True)
    np.testing.assert_array_equal(indices, [[0, 1, 2, -1]])
    np.testing.assert_array_equal(number, [3])


@pytest.mark.parametrize("max_boxes", [1, 2, 4])
def test_newer_layout_keeps_the_best_boxes(max_boxes: int, tmp_path: Path) -> None:
    boxes, scores, indices = suppressed("iOS17", tmp_path, max_boxes=max_boxes)
    kept = [0, 2][:max_boxes]
    np.testing.assert_array_equal(indices, [kept + [-1] * (max_boxes - len(kept))])
    np.testing.assert_array_equal(boxes[0, : len(kept)], BOXES[0, kept])
    np.testing.assert_array_equal(scores[0, : len(kept)], SCORES[0, kept])


def test_best_box_stays_where_none_reaches_the_threshold(tmp_path: Path) -> None:
    _, _, indices, number = suppressed("iOS15", tmp_path, max_boxes=2, score_threshold=5.0)
    np.testing.assert_array_equal(indices, [[0, -1]])
    np.testing.assert_array_equal(number, [1])


def test_apples_smoke_test_of_suppression(tmp_path: Path) -> None:
    inputs = {
        "boxes": np.repeat(np.arange(4, dtype=np.float32), 4).reshape(1, 4, 4),
        "scores": np.float32([[[-3.5], [9.4], [2.3], [0.7]]]),
    }

    def build(boxes: object, scores: object) -> object:
        return mb.non_maximum_suppression(
            boxes=boxes,
            scores=scores,
            iou_threshold=0.2,
            score_threshold=0.4,
            max_boxes=2,
            per_class_suppression=True,
        )

    expected = [
        np.float32([[[1] * 4, [2] * 4]]),
        np.float32([[[9.4], [2.3]]]),
        np.array([[1, 2]]),
        np.array([2]),
    ]
    assert_close(run(build, inputs, tmp_path, "iOS15"), expected, 0)
