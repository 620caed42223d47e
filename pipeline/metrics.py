"""Numbers that compare tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

IDENTICAL_DB = 200.0


def sqnr_db(reference: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Signal-to-quantization-noise ratio, 10 log10(sum r^2 / sum (r - o)^2), in dB, between -200 and 200.

    Args:
        reference, other: the same shape, any dtype; computed in float64. Identical arrays give 200; arrays with NaN
            or infinity in `other` alone give -200.
    """
    signal = np.asarray(reference, dtype=np.float64)
    noise = signal - np.asarray(other, dtype=np.float64)
    same_infinity = np.isinf(signal) & (signal == np.asarray(other, dtype=np.float64))
    power, error = float(np.sum(signal[~same_infinity] ** 2)), float(np.sum(noise[~same_infinity] ** 2))
    if not np.isfinite(error):
        return -IDENTICAL_DB
    if error == 0.0:
        return IDENTICAL_DB
    if power == 0.0:
        return -IDENTICAL_DB
    return float(np.clip(10.0 * np.log10(power / error), -IDENTICAL_DB, IDENTICAL_DB))


Arrays = Mapping[str, np.ndarray[Any, Any]]


def sqnr_by_output(reference: Sequence[Arrays], other: Sequence[Arrays]) -> dict[str, float]:
    """SQNR of each output over all samples together, by output name."""
    return {
        name: sqnr_db(
            np.concatenate([np.asarray(sample[name]).reshape(-1) for sample in reference]),
            np.concatenate([np.asarray(sample[name]).reshape(-1) for sample in other]),
        )
        for name in reference[0]
    }
