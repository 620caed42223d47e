"""Start jobs through a server that has imported what they need."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edgewright.pipeline.jobs import LOG, Process, start_python


@dataclass(eq=False)
class Forked:
    """A job's process, as far as the server told of it."""

    folder: Path
    pid: int | None = None
    code: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float | None = None) -> int:
        if not self.ended.wait(timeout):
            raise subprocess.TimeoutExpired(str(self.folder), timeout or 0.0)
        assert self.code is not None, "an end has a code"
        return self.code


class ForkedJobs:
    """The server, started at once: it imports while the model is captured and compressed."""

    def __init__(self, folder: Path, targets: Iterable[str] = ()) -> None:
        """Start it; its log lies in `folder`. Where forks are not safe (not on Linux), each job gets a new Python.

        Args:
            targets: whose imports it makes ahead, in this order.
        """
        self._jobs: dict[str, Forked] = {}
        self._server: subprocess.Popen[bytes] | None = None
        if sys.platform != "linux":
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / LOG
        command = [sys.executable, "-P", "-m", "edgewright.pipeline.job_server", str(folder), *targets]
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        self._listener = threading.Thread(target=self._listen, args=(self._server,), daemon=True)
        self._listener.start()

    def start(self, folder: Path) -> Process:
        """A process for the job in a folder, as `jobs.start_python`."""
        if self._server is None:
            return start_python(folder)
        job = self._jobs[str(folder)] = Forked(folder)
        (folder / LOG).touch()
        if self._server.poll() is not None:
            self._fail(job, self._server.returncode)
            return job
        stdin = self._server.stdin
        assert stdin is not None, "it was asked for"
        with contextlib.suppress(BrokenPipeError):  # the listener hears of its end
            stdin.write(f"{folder}\n".encode())
            stdin.flush()
        return job

    def close(self) -> None:
        """End the server, and the jobs that are still at work."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._listener.join()

    def _listen(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stdout is not None, "it was asked for"
        for line in server.stdout:
            answer = json.loads(line)
            job = self._jobs[answer["folder"]]
            job.pid = answer.get("pid", job.pid)
            if "exit" in answer:
                job.code = answer["exit"]
                job.ended.set()
        code = server.wait()
        for job in list(self._jobs.values()):
            if not job.ended.is_set():
                self._fail(job, code)

    def _fail(self, job: Forked, code: int) -> None:
        """A server that ended took its jobs with it: they have its code and its last words."""
        with (job.folder / LOG).open("ab") as log:
            log.write(b"\n" + self._log.read_bytes()[-2000:])
        job.code = code
        job.ended.set()
