"""A process that has imported what converters need, and forks one for each job: imports are paid once, not for each.

`python -m edgewright.pipeline.job_server FOLDER TARGET...` reads the folders of jobs from its standard input, a line
each, and answers on its standard output: the folder with "pid" and the number when a job has started, with "exit" and
its code when it has ended. It ends with its input, and its jobs with it. While nothing is asked, it imports what the
targets' lowerings need; a job that comes before its target's turn imports that itself. FOLDER, where its log lies, is
for who looks for the processes of an export.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgewright.pipeline.jobs import LOG
from edgewright.pipeline.worker import die_with_parent, main
from edgewright.targets import get_target

READ = 65536


def serve(requests: int, answers: int, imports: Sequence[Callable[[], None]] = ()) -> None:
    """Fork a process for each folder that comes in, until the input ends; one of `imports` where nothing is asked."""
    waiting = deque(imports)
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # heard through the pipe
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    folders: dict[int, str] = {}
    rest = b""
    while True:
        ready, _, _ = select.select([requests, wake], [], [], 0 if waiting else None)
        if not ready:
            import_ahead(waiting.popleft())
        if wake in ready:
            os.read(wake, READ)
            for pid, code in _ended(folders):
                _answer(answers, folder=folders.pop(pid), exit=code)
        if requests in ready:
            given = os.read(requests, READ)
            if not given:
                return
            *lines, rest = (rest + given).split(b"\n")
            for line in lines:
                folder = line.decode()
                pid = os.fork()
                if pid == 0:
                    _work(Path(folder))
                folders[pid] = folder
                _answer(answers, folder=folder, pid=pid)


def _ended(folders: dict[int, str]) -> list[tuple[int, int]]:
    found = [(pid, os.waitpid(pid, os.WNOHANG)) for pid in folders]
    return [(pid, os.waitstatus_to_exitcode(status)) for pid, (done, status) in found if done]


def _answer(answers: int, **content: Any) -> None:
    os.write(answers, json.dumps(content).encode() + b"\n")


def _work(folder: Path) -> None:
    """The forked side: one job in a session of its own, with its log as the only output."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        code = main(folder)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what the parent of the fork would do at its exit is not for us


def import_ahead(imports: Callable[[], None]) -> None:
    """Import what forks shall find. Nothing here may start threads: a fork has none of them."""
    with contextlib.suppress(ImportError):  # the job itself says what is missing
        imports()
    gc.collect()
    gc.freeze()  # a collection in a fork would write to, and so copy, every page


def preload() -> None:
    """What every job needs."""
    import torch._dynamo  # the first fake tensor imports it
    import torch._functorch.aot_autograd  # and the first decomposition this
    import torch.export._trace  # noqa: F401

    import edgewright.pipeline.deliver  # noqa: F401


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    channel = os.dup(1)
    os.dup2(2, 1)  # what an import prints is no answer
    import_ahead(preload)
    serve(0, channel, [get_target(name).preload for name in sys.argv[2:]])
