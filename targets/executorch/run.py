"""Run a .pte file in ExecuTorch's runtime on this machine."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from edgewright.targets.base import Arrays, PortEncoding

PORTS = "edgewright.ports"  # a constant method: JSON with the dtypes of inputs and outputs, by name and in order


@cache
def load_bindings() -> Any:
    """The runtime's own extension module. It is linked with PyTorch's libraries, which importing torch loads.

    The public module beside it re-exports these names, but imports the whole compiler on its way (7 s, 400 MB).
    """
    import torch  # noqa: F401
    from executorch.extension.pybindings import _portable_lib

    return _portable_lib


class ExecutorchSession:
    """An open file of ours."""

    provenance = "measured-on-host"
    encodings: ClassVar[Mapping[str, PortEncoding]] = MappingProxyType({})

    def __init__(self, path: Path, threads: int = 1) -> None:
        bindings = load_bindings()
        self.runtime = f"executorch {version('executorch')}"
        with _silent_stderr():
            bindings._unsafe_reset_threadpool(threads)  # the one pool of the process; no session is running now
        self._program: Any = bindings._load_program(str(path))
        ports = json.loads(self._program.load_method(PORTS)([])[0])
        self._inputs: dict[str, str] = ports["inputs"]
        self._outputs: dict[str, str] = ports["outputs"]
        self._method: Any = self._program.load_method("forward")

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        import torch

        feed = [torch.tensor(np.asarray(inputs[name], dtype)) for name, dtype in self._inputs.items()]
        results = self._method(feed)
        return {
            name: result.numpy().astype(dtype, copy=False)
            for (name, dtype), result in zip(self._outputs.items(), results, strict=True)
        }

    def close(self) -> None:
        self._method = self._program = None

    def __enter__(self) -> ExecutorchSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """The thread pool reports what it looks up about the processor from C++, on every machine that is no phone."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
