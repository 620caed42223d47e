"""Samples in files: lists of dicts of arrays as one .npz, without pickles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgewright.targets.base import Arrays


def save_samples_file(path: Path, samples: Sequence[Arrays]) -> None:
    arrays = {f"{number}/{name}": value for number, sample in enumerate(samples) for name, value in sample.items()}
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_samples_file(path: Path) -> list[Arrays]:
    samples: dict[int, Arrays] = {}
    with np.load(path, allow_pickle=False) as content:
        for key in content.files:
            number, _, name = key.partition("/")
            samples.setdefault(int(number), {})[name] = content[key]
    return [samples[number] for number in sorted(samples)]
