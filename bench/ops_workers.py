"""Replay cases in a worker process a target, restarted when it dies or hangs: that costs the one cell alone."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from bench.ops_cells import CRASHED, Outcome, run_case
from bench.ops_samples import Case

SECONDS = 120.0  # for one case; a first one imports the converter, too
MOST_CASES = 400  # of one process: converters keep memory

Run = Callable[[Case, str], Outcome]


def replay(cases: Iterable[Case], target: str, run: Run = run_case, seconds: float = SECONDS) -> Iterator[Outcome]:
    """The outcome of each case, in order."""
    worker: _Worker | None = None
    try:
        for case in cases:
            if worker is None or worker.done == MOST_CASES:
                if worker:
                    worker.stop()
                worker = _Worker(target, run)
            outcome = worker.ask(case, seconds)
            if outcome.status == CRASHED:
                worker.stop()
                worker = None
            yield outcome
    finally:
        if worker:
            worker.stop()


class _Worker:
    def __init__(self, target: str, run: Run) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.testing._internal.common_methods_invocations"])  # once, not a worker
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, target, run), daemon=True)
        self._process.start()
        other.close()
        self.done = 0

    def ask(self, case: Case, seconds: float) -> Outcome:
        self.done += 1
        try:
            self._pipe.send(case)
            if not self._pipe.poll(seconds):
                return Outcome(CRASHED, f"no answer after {seconds:.0f} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return Outcome(CRASHED, f"the process died (exit code {self._process.exitcode})")
        assert isinstance(answer, Outcome), "a worker answers with outcomes"
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection[Any, Any], target: str, run: Run) -> None:
    import torch

    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)  # converters write past Python's own streams
    os.dup2(silent, 2)
    torch.set_num_threads(1)
    remember_tables()
    while True:
        try:
            pipe.send(run(pipe.recv(), target))
        except (EOFError, BrokenPipeError):  # the bench is gone
            return


def remember_tables() -> None:
    """Keep what PyTorch makes anew for each export and is always the same: two thirds of the time of a small model."""
    import torch
    import torch._export.utils as export
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    export._collect_all_valid_cia_ops_for_namespace = functools.cache(export._collect_all_valid_cia_ops_for_namespace)
    slow, python = torch._ops.OperatorBase.py_impl, torch._C.DispatchKey.Python

    def py_impl(self: torch._ops.OperatorBase, key: Any) -> Callable[[Any], Any]:
        """PyTorch's own, which evaluates its annotations anew for each of the 6000 kernels of an export."""
        if not isinstance(key, torch._C.DispatchKey):
            return slow(self, key)

        def register(kernel: Any) -> Any:
            if key is python or key in self.py_kernels:
                return slow(self, key)(kernel)
            self.py_kernels[key] = kernel
            self._dispatch_cache.clear()
            return kernel

        return register

    torch._ops.OperatorBase.py_impl = py_impl  # type: ignore[method-assign, assignment]
    registry = functools.cache(ONNXRegistry.from_torchlib)  # bound: both callers may come as instance or class
    ONNXRegistry.from_torchlib = staticmethod(registry)  # type: ignore[method-assign]
