"""Run samples through a graph side by side, with the very numbers of one after the other."""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Sample = TypeVar("Sample")
AT_ONCE = 2  # each has activations of its own


class SideBySide:
    """Samples that run at once, and what they share: each of them has its turn there in the samples' order.

    Args:
        shared: what they share; as many times as each sample takes a turn there.
    """

    def __init__(self, shared: Iterable[Hashable] = ()) -> None:
        self._calls = Counter(shared)
        self._passed = Counter[Hashable]()
        self._changed = threading.Condition()
        self._local = threading.local()
        self._failed: float = math.inf

    def run(self, function: Callable[[Sample], object], samples: Sequence[Sample]) -> None:
        """Call `function` on each, without gradients; two at once where PyTorch's operations leave cores to the second.

        Raises:
            What the first sample raised that failed.
        """
        cores = os.cpu_count() or 1
        workers = min(AT_ONCE, cores // torch.get_num_threads())
        if workers < 2 or len(samples) < 2:
            for number, sample in enumerate(samples):
                self._one(function, number, sample)
            return
        with ThreadPoolExecutor(workers) as pool:
            running = [pool.submit(self._one, function, number, sample) for number, sample in enumerate(samples)]
            try:
                for done in running:
                    done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    @contextmanager
    def turn(self, shared: Hashable) -> Iterator[None]:
        """Wait until all samples before this thread's have had all of their turns."""
        number = self._local.number
        first = number * self._calls[shared]
        with self._changed:
            self._changed.wait_for(lambda: self._passed[shared] >= first or self._failed < number)
            if self._failed < number:
                raise CancelledError
        yield
        with self._changed:
            self._passed[shared] += 1
            self._changed.notify_all()

    def _one(self, function: Callable[[Sample], object], number: int, sample: Sample) -> None:
        self._local.number = number
        try:
            with torch.no_grad():
                function(sample)
        except BaseException:
            with self._changed:
                self._failed = min(self._failed, number)
                self._changed.notify_all()
            raise
