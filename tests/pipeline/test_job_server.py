import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgewright.pipeline.forked_jobs import ForkedJobs
from edgewright.pipeline.job_server import serve
from edgewright.targets import target_names
from tests.small_release import is_installed

PRELOADED = """
import os, sys
from edgewright.pipeline.job_server import import_ahead, preload
from edgewright.targets import get_target
import_ahead(preload)
for name in sys.argv[1:]:
    get_target(name).preload()
print(len(os.listdir("/proc/self/task")))
"""


@pytest.fixture
def handler() -> Iterator[None]:
    """The server's own handler of ended children goes with the test."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, before)


def test_what_is_asked_comes_before_imports(handler: None) -> None:
    requests, end = os.pipe()
    os.close(end)
    imported: list[str] = []
    serve(requests, 1, [lambda: imported.append("a converter")])
    os.close(requests)
    assert imported == []


def test_a_server_that_is_not_asked_imports_and_a_missing_module_ends_nothing(handler: None) -> None:
    requests, end = os.pipe()
    imported: list[str] = []

    def missing() -> None:
        imported.append("missing")
        raise ImportError("no such converter")

    def last() -> None:
        imported.append("there")
        os.close(end)  # the server ends

    serve(requests, 1, [missing, last])
    os.close(requests)
    assert imported == ["missing", "there"]


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux")
def test_the_server_has_the_imports_of_the_release_s_targets(tmp_path: Path) -> None:
    server = ForkedJobs(tmp_path / "server", ["onnx"])
    try:
        assert server._server is not None
        process, until = psutil.Process(server._server.pid), time.monotonic() + 120
        while not any("onnx_cpp2py" in file.path for file in process.memory_maps()):
            assert time.monotonic() < until, "it never imported onnx"
            time.sleep(0.2)
    finally:
        server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_imports_start_no_thread_that_a_fork_would_miss() -> None:
    """But for OpenBLAS's, which start again after a fork."""
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    targets = [name for name in target_names() if is_installed(name)]
    command = [sys.executable, "-c", PRELOADED, *targets]
    done = subprocess.run(command, env=os.environ | one, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "1"
