"""Drawn pictures with captions, split by seed and balanced: 7200 train, 180 calibration, 432 test."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from examples.vision_text.captions import CLASSES, POSITIONS, SIZES, TEMPLATES, Scene, class_tokens, tokenize
from examples.vision_text.drawing import draw

Arrays = dict[str, NDArray[np.generic]]
Predict = Callable[[Arrays], Arrays]
Part = Literal["train", "calibration", "test"]

MEAN, STD = 0.5, 0.25
"""Of all three channels, for pixels in [0, 1]."""
VALIDATION_SAMPLES = 64
_SEED_AND_PER_CLASS = {"train": (0, 200), "calibration": (1, 5), "test": (2, 12)}


@cache
def scenes_of(part: Part) -> tuple[tuple[Scene, ...], NDArray[np.uint8]]:
    """One part in a fixed random order: its n scenes; their pictures, uint8 [n, 3, 32, 32]."""
    seed, per_class = _SEED_AND_PER_CLASS[part]
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.repeat(np.arange(len(CLASSES)), per_class))
    scenes = tuple(
        Scene(shape, colour, SIZES[rng.integers(len(SIZES))], POSITIONS[rng.integers(len(POSITIONS))])
        for colour, shape in (CLASSES[index] for index in order)
    )
    return scenes, np.stack([draw(scene, rng) for scene in scenes])


def normalize(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels in 0..255 to ((x / 255) - 0.5) / 0.25: uint8 -> float32, same shape."""
    return ((pictures.astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)


def test_set() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The held-out pictures: images, float32 [432, 3, 32, 32]; their indices in CLASSES, int64 [432]."""
    scenes, pictures = scenes_of("test")
    labels = [CLASSES.index((scene.colour, scene.shape)) for scene in scenes]
    return normalize(pictures), np.array(labels, dtype=np.int64)


def _samples(part: Part, count: int) -> Iterator[Arrays]:
    """Each picture with 36 captions, one a class, each of a template, a size and a place drawn at random."""
    rng = np.random.default_rng(_SEED_AND_PER_CLASS[part][0])
    for picture in scenes_of(part)[1][:count]:
        captions = [
            Scene(shape, colour, SIZES[rng.integers(len(SIZES))], POSITIONS[rng.integers(len(POSITIONS))]).caption(
                TEMPLATES[rng.integers(len(TEMPLATES))]
            )
            for colour, shape in CLASSES
        ]
        yield {"image": normalize(picture[None]), "tokens": tokenize(captions)}


def calibration() -> Iterator[Arrays]:
    """180 samples: {"image": float32 [1, 3, 32, 32], "tokens": int64 [36, 12], varied captions}."""
    return _samples("calibration", len(scenes_of("calibration")[0]))


def validation() -> Iterator[Arrays]:
    """64 samples of test pictures: {"image": float32 [1, 3, 32, 32], "tokens": int64 [36, 12]}."""
    return _samples("test", VALIDATION_SAMPLES)


def accuracy(predict: Predict) -> float:
    """Share of the test pictures whose own class caption scores highest (zero-shot classification), 0..1.

    Args:
        predict: from {"image": float32 [432, 3, 32, 32], "tokens": int64 [36, 12], the class captions} to at
            least {"logits": [432, 36]}.
    """
    images, labels = test_set()
    logits = predict({"image": images, "tokens": class_tokens()})["logits"]
    return float(np.mean(logits.argmax(axis=1) == labels))
