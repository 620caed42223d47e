"""Windows of the standard library's source, split by file: 192 to calibrate, 96 held out."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from examples.stdlib_lm.corpus import Part, library, windows_of

Arrays = dict[str, NDArray[np.generic]]
Predict = Callable[[Arrays], Arrays]

CALIBRATION_WINDOWS, HELD_OUT_WINDOWS, VALIDATION_SAMPLES = 192, 96, 32


@cache
def windows(part: Part) -> NDArray[np.int64]:
    """The windows of the running interpreter's library: int64 [n, 129], the last column only ever a target."""
    return windows_of(part, HELD_OUT_WINDOWS if part == "held-out" else CALIBRATION_WINDOWS, library())


def _one_by_one(part: Part, count: int) -> Iterator[Arrays]:
    for window in windows(part)[:count]:
        yield {"tokens": window[None, :-1].copy()}


def calibration() -> Iterator[Arrays]:
    """192 windows of the calibration files, one at a time: {"tokens": int64 [1, 128]}."""
    return _one_by_one("calibration", CALIBRATION_WINDOWS)


def validation() -> Iterator[Arrays]:
    """32 windows of the held-out files, one at a time: {"tokens": int64 [1, 128]}."""
    return _one_by_one("held-out", VALIDATION_SAMPLES)


def mean_log_likelihood(predict: Predict, of: NDArray[np.int64]) -> float:
    """Mean natural logarithm of the probability given to the token that follows, over all positions: at most 0.

    Args:
        predict: from {"tokens": int64 [n, 128]} to {"logits": [n, 128, vocabulary]}.
        of: windows, int64 [n, 129].
    """
    logits = np.asarray(predict({"tokens": of[:, :-1].copy()})["logits"], dtype=np.float64)
    chosen = np.take_along_axis(logits, of[:, 1:, None], axis=-1)[..., 0]
    largest = logits.max(axis=-1)
    return float(np.mean(chosen - largest - np.log(np.exp(logits - largest[..., None]).sum(axis=-1))))


def perplexity(predict: Predict, of: NDArray[np.int64] | None = None) -> float:
    """exp(-mean log-likelihood) of the windows `of`, the 96 held-out ones by default: 1 at best, lower is better."""
    return float(np.exp(-mean_log_likelihood(predict, windows("held-out") if of is None else of)))


def log_likelihood(predict: Predict) -> float:
    """Mean log-likelihood of a held-out token, in nats: minus the logarithm of the perplexity; higher is better.

    Args:
        predict: from {"tokens": int64 [96, 128]} to {"logits": [96, 128, 1024]}.
    """
    return mean_log_likelihood(predict, windows("held-out"))
