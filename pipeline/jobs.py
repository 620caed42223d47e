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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from edgewright.errors import LoweringError

JOBS, LOG = ".jobs", "log.txt"  # JOBS lies in the staging folder; no delivery's name starts with a dot


class Process(Protocol):
    """What does a job; it leads a session of its own."""

    @property
    def pid(self) -> int | None:
        """None: not started yet."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal; raises subprocess.TimeoutExpired."""


_live: set[Any] = set()  # of Processes
_lock = threading.Lock()


def run_job(
    kind: str, arguments: Any, folder: Path, timeout_s: float, start: Callable[[Path], Process] | None = None
) -> dict[str, Any]:
    """Run `worker.JOBS[kind](arguments)` in a new process and give its result.

    Args:
        arguments: a dataclass of plain data.
        folder: an empty folder for the job's own files; the log of the process stays there.
        start: how to start a process for what lies in a folder; None: a new Python.
    Raises:
        LoweringError: the process failed, was killed, ran out of time, or ended without a result.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps({"kind": kind, "arguments": dataclasses.asdict(arguments)}))
    started = time.monotonic()
    process = (start or start_python)(folder)
    with _lock:
        _live.add(process)
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise LoweringError(
            "the converter ran out of time",
            got=f"{time.monotonic() - started:.0f} s",
            expected=f"{timeout_s:.0f} s",
            do="raise --timeout, or deliver a smaller model",
        ) from None
    finally:
        _kill(process)
        with _lock:
            _live.discard(process)
    return _result(folder, code)


def start_python(folder: Path) -> Process:
    """A new Python for the job in a folder."""
    # -P: a user's random.py in the working directory must not stand for Python's own.
    command = [sys.executable, "-P", "-m", "edgewright.pipeline.worker", str(folder)]
    with (folder / LOG).open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def stop_jobs() -> None:
    """Kill every process that is still at work."""
    with _lock:
        processes = list(_live)
    for process in processes:
        _kill(process)


def _kill(process: Process) -> None:
    """End a process and whatever it started."""
    if process.pid is None:
        return
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
    tail = (folder / LOG).read_bytes()[-2000:].decode(errors="replace").strip().split("\n")[-3:]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise LoweringError("the worker process ended without a result", got=how, where=" | ".join(tail) or None)
