"""Run a TFLite file in LiteRT on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.targets.base import Arrays
from edgewright.targets.tflite.boundary import recorded_dtypes


class TfliteSession:
    """An open file, through its only signature, with the default (XNNPACK) kernels."""

    provenance = "measured-on-host"

    def __init__(self, path: Path, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.runtime = f"ai-edge-litert {version('ai-edge-litert')}"
        self._interpreter: Any = Interpreter(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        name = next(iter(self._interpreter.get_signature_list()))
        self._run: Any = self._interpreter.get_signature_runner(name)
        self._outer = recorded_dtypes(path.read_bytes())
        self._dtypes = {port: detail["dtype"] for port, detail in self._run.get_input_details().items()}

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        results = self._run(**{name: np.asarray(inputs[name], dtype=dtype) for name, dtype in self._dtypes.items()})
        return {name: np.array(value, dtype=self._outer.get(name, value.dtype)) for name, value in results.items()}

    def close(self) -> None:
        self._run = self._interpreter = None

    def __enter__(self) -> TfliteSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
