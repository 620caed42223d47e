"""Work for the cores that are idle while passes run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")


@contextmanager
def mapped_meanwhile(function: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Future[list[Found]]]:
    """Call `function` on each item, in another thread, while the block runs; if that raises, the rest is left out."""
    stopped = threading.Event()

    def work() -> list[Found]:
        found = []
        for item in items:
            if stopped.is_set():
                break
            found.append(function(item))
        return found

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(work)
        except BaseException:
            stopped.set()
            raise
