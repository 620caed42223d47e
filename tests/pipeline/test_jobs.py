"""Converters in processes of their own: a crash, a hang or Ctrl-C ends what it should end and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import edgewright
from edgewright.errors import LoweringError
from edgewright.pipeline import forked_jobs, jobs
from edgewright.pipeline.forked_jobs import ForkedJobs
from tests.small_release import (
    Tiny,
    contents,
    deliver,
    is_installed,
    own_imports,
    staging_left,
    write_release,
)


@dataclass(frozen=True)
class Nothing:
    target: str = "onnx"


def use_worker(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let a shell script stand for the worker's interpreter; `$4` is the job's folder, "$PYTHON" the real one."""
    file = folder / "worker.sh"
    file.write_text(f'#!/bin/sh\nPYTHON="{sys.executable}"\nJOB="$(for last; do :; done; echo "$last")"\n{script}\n')
    file.chmod(0o755)
    monkeypatch.setattr(jobs, "sys", SimpleNamespace(executable=str(file)))


def use_server(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """The same for the interpreter of the jobs' server."""
    use_worker(monkeypatch, folder, script)
    monkeypatch.setattr(forked_jobs, "sys", SimpleNamespace(executable=str(folder / "worker.sh"), platform="linux"))


def processes_with(word: str) -> list[str]:
    """Living processes, not this one, with a word in their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status", "pid"]):
        line = " ".join(process.info["cmdline"] or ())
        if word in line and process.info["pid"] != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


def test_a_job_gives_what_its_worker_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_worker(monkeypatch, tmp_path, 'echo \'{"value": 7}\' > "$JOB/result.json"')
    assert jobs.run_job("deliver", Nothing(), tmp_path / "job", 20) == {"value": 7}
    assert '"target": "onnx"' in (tmp_path / "job" / "job.json").read_text()


def test_a_server_forks_jobs_that_have_its_imports(tmp_path: Path) -> None:
    """The real server: a job's failure and the death of one are told as those of a process of its own."""
    server = ForkedJobs(tmp_path / "server")
    try:
        with pytest.raises(LoweringError, match="KeyError"):
            jobs.run_job("deliver", Nothing("coreml"), tmp_path / "job", 120, server.start)
        assert server._server is not None
        assert any("torch" in file.path for file in psutil.Process(server._server.pid).memory_maps())
        assert "Traceback" in (tmp_path / "job" / jobs.LOG).read_text()
    finally:
        server.close()
    with pytest.raises(LoweringError, match="killed by SIGKILL"):
        jobs.run_job("deliver", Nothing(), tmp_path / "late", 20, server.start)


def test_a_server_that_cannot_import_ends_its_jobs_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_server(monkeypatch, tmp_path, "echo no torch here >&2; sleep 0.5; exit 3")
    server = ForkedJobs(tmp_path / "server")
    with pytest.raises(LoweringError, match="got: exit code 3\n  where: no torch here"):
        jobs.run_job("deliver", Nothing(), tmp_path / "job", 20, server.start)
    server.close()


def test_a_worker_that_exits_with_0_and_no_result_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_worker(monkeypatch, tmp_path, "echo some words; exit 0")
    with pytest.raises(LoweringError, match="ended without a result\n  got: exit code 0\n  where: some words"):
        jobs.run_job("deliver", Nothing(), tmp_path / "job", 20)


def test_a_result_of_a_worker_that_failed_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_worker(monkeypatch, tmp_path, 'echo "{}" > "$JOB/result.json"; exit 3')
    with pytest.raises(LoweringError, match="got: exit code 3"):
        jobs.run_job("deliver", Nothing(), tmp_path / "job", 20)


@pytest.mark.parametrize("name", ["KILL", "SEGV", "ABRT"])
def test_a_killed_worker_is_told_with_its_signal(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_worker(monkeypatch, tmp_path, f"ulimit -c 0; kill -{name} $$")
    with pytest.raises(LoweringError, match=f"got: killed by SIG{name}"):
        jobs.run_job("deliver", Nothing(), tmp_path / "job", 20)


def test_a_hanging_worker_and_its_children_end_at_the_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_worker(monkeypatch, tmp_path, "sleep 98765 & trap '' TERM INT; sleep 98766")
    started = time.monotonic()
    with pytest.raises(LoweringError, match="ran out of time") as caught:
        jobs.run_job("deliver", Nothing(), tmp_path / "job", 1)
    assert 1 <= time.monotonic() - started < 15
    assert "expected: 1 s" in str(caught.value)
    assert "raise --timeout" in str(caught.value)
    time.sleep(0.2)
    assert processes_with("sleep 9876") == []


def test_stop_jobs_ends_what_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_worker(monkeypatch, tmp_path, "sleep 87654")
    caught: list[BaseException] = []

    def work() -> None:
        try:
            jobs.run_job("deliver", Nothing(), tmp_path / "job", 60)
        except LoweringError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 20
    while not processes_with("sleep 87654"):
        assert time.monotonic() < deadline, "the worker never started"
        time.sleep(0.05)
    jobs.stop_jobs()
    thread.join(20)
    assert not thread.is_alive()
    assert "killed by SIGKILL" in str(caught[0])
    assert processes_with("sleep 87654") == []


def test_the_workers_own_failure_is_told_whatever_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real worker, beside files of the user's that are called as Python's own modules."""
    monkeypatch.chdir(tmp_path)
    for name in ("random", "inspect", "json"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the user's own')")

    @dataclass(frozen=True)
    class Unknown:
        target: str = "onxx"
        program: str = "nowhere.pt2"
        inputs: tuple[()] = ()
        outputs: tuple[()] = ()
        artifact: str = "nowhere"
        samples: str = "nowhere.npz"
        dims: tuple[()] = ()
        metric: None = None
        swap: None = None

    with pytest.raises(LoweringError, match="unknown target\n  got: 'onxx'"):
        jobs.run_job("deliver", Unknown(), tmp_path / "job", 120)


THREE = deliver("openvino", name="killed") + deliver("coreml", name="silent") + deliver("onnx", name="good")


CRASHING = """
import os
import runpy
import signal
import sys
from edgewright.pipeline import worker

run = worker.main


def main(folder):
    if folder.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if folder.name == "silent":
        return 0
    return run(folder)


worker.main = main
module, sys.argv = sys.argv[3], sys.argv[3:]
runpy.run_module(module, run_name="__main__")
"""


@pytest.mark.slow
def test_a_crash_ends_one_delivery_and_the_others_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for target in ("onnx", "openvino", "coreml"):
        if not is_installed(target):
            pytest.skip(f"the runtime of {target} is not installed")
    (tmp_path / "crashing.py").write_text(CRASHING)
    use_server(monkeypatch, tmp_path, f'exec "$PYTHON" {tmp_path}/crashing.py "$@"')
    release = write_release(tmp_path / "release", deliveries=THREE)
    with own_imports():
        result = edgewright.export(release.file, tmp_path / "out")
    found = {delivery.name: delivery for delivery in result.deliveries}
    assert {name: delivery.status for name, delivery in found.items()} == {
        "killed": "failed",
        "silent": "failed",
        "good": "passed",
    }
    assert "killed by SIGKILL" in found["killed"].reason
    assert "exit code 0" in found["silent"].reason
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "good",
        "good.zip",
        "release.json",
        "report.html",
    ]


@pytest.mark.slow
def test_a_crash_while_it_is_measured_ends_one_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_worker(monkeypatch, tmp_path, 'case "$JOB" in *measure) kill -SEGV $$;; esac\nexec "$PYTHON" "$@"')
    release = write_release(tmp_path / "release")
    with own_imports():
        result = edgewright.export(release.file, tmp_path / "out")
    assert [delivery.status for delivery in result.deliveries] == ["failed"]
    assert "killed by SIGSEGV" in result.deliveries[0].reason
    assert result.deliveries[0].package is None


def test_a_hanging_converter_ends_at_timeout_and_the_export_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_server(monkeypatch, tmp_path, "exec sleep 76543")
    release = write_release(tmp_path / "release", deliveries=deliver(name="a") + deliver(name="b") + deliver(name="c"))
    with own_imports():
        result = edgewright.export(release.file, tmp_path / "out", timeout_s=1)
    assert [delivery.status for delivery in result.deliveries] == ["failed"] * 3
    assert all("ran out of time" in delivery.reason for delivery in result.deliveries)
    assert processes_with("sleep 76543") == []


def started_export(release: Tiny, out: Path) -> subprocess.Popen[str]:
    """An export in a process group of its own, brought to where its converters work (and will for an hour)."""
    # A shell's background job, such as a CI run may be, and all below it ignore Ctrl-C.
    hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = f"{hears}; from edgewright.pipeline.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "export", str(release.file), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(processes_with(f"{out}/.edgewright-")) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the converters never started"
        time.sleep(0.05)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_leaves_the_old_package_and_nothing_else(whole_group: bool, tmp_path: Path) -> None:
    """With more deliveries than converters work at once: none may start after the interrupt."""
    four = "".join(deliver("onnx", name=name) for name in ("one", "two", "three", "four"))
    hang = "\n\nif in_worker():\n    import time\n    time.sleep(3600)\n"
    release = write_release(tmp_path / "release", deliveries=four, code=hang)
    out = tmp_path / "out"
    (out / "one" / "artifact").mkdir(parents=True)
    (out / "one" / "artifact" / "model.onnx").write_bytes(b"older")
    (out / "one.zip").write_bytes(b"older")
    (out / "release.json").write_text("{}")
    before = contents(out)
    process = started_export(release, out)
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    printed, error = process.communicate(timeout=60)
    assert process.returncode == 130, (printed, error)
    assert error == "edgewright: interrupted; every package in place is whole\n"
    assert contents(out) == before
    assert staging_left(out) == []
    deadline = time.monotonic() + 10  # one whose Python was just starting hears of it from its standard input
    while processes_with(str(out)):
        assert time.monotonic() < deadline, processes_with(str(out))
        time.sleep(0.05)
