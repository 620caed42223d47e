"""Run a TFLite file in LiteRT on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.targets.base import Arrays, PortEncoding
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
        self._outer = recorded_dtypes(path)
        details = self._run.get_input_details()
        self._dtypes = {port: detail["dtype"] for port, detail in details.items()}
        self.encodings = self._integer_ports({**details, **self._run.get_output_details()})

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        results = self._run(**{name: self._stored(name, np.asarray(inputs[name])) for name in self._dtypes})
        return {name: self._real(name, np.array(value)) for name, value in results.items()}

    def _integer_ports(self, details: Mapping[str, Mapping[str, Any]]) -> dict[str, PortEncoding]:
        found = {}
        for name, detail in details.items():
            scale, zero_point = detail["quantization"]
            if scale and self._outer.get(name) == "float32" and detail["dtype"] != np.float32:
                found[name] = PortEncoding(np.dtype(detail["dtype"]).name, float(scale), int(zero_point))
        return found

    def _stored(self, name: str, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if name not in self.encodings:
            return value.astype(self._dtypes[name], copy=False)
        encoding, limits = self.encodings[name], np.iinfo(self._dtypes[name])
        steps = np.rint(value / np.float32(encoding.scale)) + encoding.zero_point
        clipped: np.ndarray[Any, Any] = np.clip(steps, limits.min, limits.max)
        return clipped.astype(self._dtypes[name])

    def _real(self, name: str, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if name not in self.encodings:
            return value.astype(self._outer.get(name, value.dtype), copy=False)
        encoding = self.encodings[name]
        return (value.astype(np.int32) - encoding.zero_point).astype(np.float32) * np.float32(encoding.scale)

    def close(self) -> None:
        self._run = self._interpreter = None

    def __enter__(self) -> TfliteSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
