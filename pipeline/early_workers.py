"""Workers that start before there is work: they import their converters while the model is captured and compressed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from edgewright.pipeline.jobs import Worker

MOST = 3  # each holds some 400 MB while it waits


class EarlyWorkers:
    """Starts a worker for each job in turn, the next when the one before has its imports: they leave a core free."""

    def __init__(self, jobs: Mapping[Path, str]) -> None:
        """Start the first.

        Args:
            jobs: by folder: the target whose modules the job will need.
        """
        self._jobs = dict(jobs)
        self._workers: dict[Path, Worker] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._start, daemon=True)
        self._thread.start()

    def take(self, folder: Path) -> Worker:
        """The worker of a job, started now if it was not yet."""
        with self._lock:
            if folder not in self._workers:
                self._workers[folder] = Worker(folder, self._jobs[folder])
            return self._workers[folder]

    def close(self) -> None:
        """Start no more."""
        self._closed.set()
        self._thread.join()

    def _start(self) -> None:
        for folder in list(self._jobs)[:MOST]:
            with self._lock:
                if self._closed.is_set():
                    return
                if folder in self._workers:
                    continue
                worker = self._workers[folder] = Worker(folder, self._jobs[folder])
            while not worker.is_ready() and not self._closed.wait(0.05):
                pass
        self._closed.wait()  # Linux takes the end of the thread that started a worker for the end of its parent
