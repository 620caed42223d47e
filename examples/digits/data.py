"""Scikit-learn's 1797 digits as 28 x 28 images, split once: 1097 train, 200 calibration, 500 test."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Arrays = dict[str, NDArray[np.generic]]
Predict = Callable[[Arrays], Arrays]

MEAN, STD = 0.3, 0.3
"""Of pixels in [0, 1]: about the training pictures' own."""
SEED = 0
VALIDATION_SAMPLES = 64


@cache
def _pictures() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All pictures, normalized, float32 [1797, 1, 28, 28]; their labels, int64 [1797]."""
    digits = load_digits()
    small = torch.from_numpy(digits.images.astype(np.float32))[:, None] / 16
    large = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    return ((large - MEAN) / STD).numpy(), digits.target.astype(np.int64)


@cache
def split() -> dict[str, NDArray[np.int64]]:
    """Indices of the "train", "calibration" and "test" pictures: disjoint, balanced by class, fixed."""
    labels = _pictures()[1]
    rest, test = train_test_split(np.arange(len(labels)), test_size=500, stratify=labels, random_state=SEED)
    train, calibration = train_test_split(rest, test_size=200, stratify=labels[rest], random_state=SEED)
    return {"train": train, "calibration": calibration, "test": test}


def pictures_of(
    part: Literal["train", "calibration", "test"],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One part: images, float32 [n, 1, 28, 28], normalized; labels, int64 [n]."""
    images, labels = _pictures()
    return images[split()[part]], labels[split()[part]]


def test_set() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 500 held-out pictures: images, float32 [500, 1, 28, 28]; labels, int64 [500]."""
    return pictures_of("test")


def _one_by_one(images: NDArray[np.float32]) -> Iterator[Arrays]:
    for index in range(len(images)):
        yield {"image": images[index : index + 1]}


def calibration() -> Iterator[Arrays]:
    """The 200 calibration pictures, one at a time: {"image": float32 [1, 1, 28, 28]}."""
    return _one_by_one(pictures_of("calibration")[0])


def validation() -> Iterator[Arrays]:
    """The first 64 test pictures, one at a time: {"image": float32 [1, 1, 28, 28]}."""
    return _one_by_one(test_set()[0][:VALIDATION_SAMPLES])


def accuracy(predict: Predict) -> float:
    """Share of the 500 test pictures that `predict` classifies rightly, 0..1.

    Args:
        predict: from {"image": float32 [500, 1, 28, 28]} to {"logits": [500, 10]}.
    """
    images, labels = test_set()
    logits = predict({"image": images})["logits"]
    return float(np.mean(logits.argmax(axis=1) == labels))
