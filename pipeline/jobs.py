"""Work that runs in a process of its own: a crash or a hang of a converter ends one delivery and nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from edgewright.errors import LoweringError

JOBS = ".jobs"  # below the staging folder; no delivery's name starts with a dot
READY = "ready"  # the file that says that a worker's imports are done

_live: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()


def run_job(kind: str, arguments: Any, folder: Path, timeout_s: float) -> dict[str, Any]:
    """Run `worker.JOBS[kind](arguments)` in a new process and give its result.

    Args:
        arguments: a dataclass of plain data.
        folder: an empty folder for the job's own files; the log of the process stays there.
    Raises:
        LoweringError: the process failed, was killed, ran out of time, or ended without a result.
    """
    return Worker(folder).run(kind, arguments, timeout_s)


class Worker:
    """A process that waits for its one job, and meanwhile imports what it needs."""

    def __init__(self, folder: Path, target: str | None = None) -> None:
        """Start it.

        Args:
            folder: an empty folder for the job's own files; the log of the process stays there.
            target: whose modules the job will need.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # -P: a user's random.py in the working directory must not stand for Python's own.
        command = [sys.executable, "-P", "-m", "edgewright.pipeline.worker", *([target] if target else []), str(folder)]
        with (folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        with _lock:
            _live.add(self._process)

    def is_ready(self) -> bool:
        """Whether its imports are done, or it has ended."""
        return (self.folder / READY).exists() or self._process.poll() is not None

    def run(self, kind: str, arguments: Any, timeout_s: float) -> dict[str, Any]:
        """As `run_job`."""
        (self.folder / "job.json").write_text(json.dumps({"kind": kind, "arguments": dataclasses.asdict(arguments)}))
        started = time.monotonic()
        try:
            self._process.communicate(b"go\n", timeout_s)
        except subprocess.TimeoutExpired:
            raise LoweringError(
                "the converter ran out of time",
                got=f"{time.monotonic() - started:.0f} s",
                expected=f"{timeout_s:.0f} s",
                do="raise --timeout, or deliver a smaller model",
            ) from None
        finally:
            _kill(self._process)
            with _lock:
                _live.discard(self._process)
        return _result(self.folder, self._process.returncode)


def stop_jobs() -> None:
    """Kill every process that is still at work."""
    with _lock:
        processes = list(_live)
    for process in processes:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and whatever it started: it leads a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _result(folder: Path, code: int) -> dict[str, Any]:
    """A job succeeded only when it exited with 0 and left a result."""
    file = folder / "result.json"
    if code == 0 and file.is_file():
        result: dict[str, Any] = json.loads(file.read_text())
        return result
    failure = folder / "failure.json"
    if failure.is_file():
        content = json.loads(failure.read_text())
        error = LoweringError(content["message"])
        error.refusals = content.get("refusals", [])  # type: ignore[attr-defined]
        raise error
    tail = (folder / "log.txt").read_bytes()[-2000:].decode(errors="replace").strip().split("\n")[-3:]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise LoweringError("the worker process ended without a result", got=how, where=" | ".join(tail) or None)
