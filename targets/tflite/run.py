"""Run a TFLite file in LiteRT on this machine. Imports that and numpy alone (`PinnedRuntime.script`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from edgewright.targets.base import Arrays, PortEncoding


class _Stored(NamedTuple):
    """real = scale * (stored - zero_point); a PortEncoding where edgewright is not installed."""

    dtype: str
    scale: float
    zero_point: int


class TfliteSession:
    """An open file, with the default (XNNPACK) kernels, through the signature that has the inputs' shapes."""

    provenance = "measured-on-host"

    def __init__(self, path: Path, threads: int = 1, dtypes: Mapping[str, str] | None = None) -> None:
        interpreter, distribution = _runtime()
        self.runtime = f"{distribution} {version(distribution)}"
        self._interpreter: Any = interpreter(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        names = self._interpreter.get_signature_list()
        self._runs: list[Any] = [self._interpreter.get_signature_runner(name) for name in names]
        self._outer = _recorded_dtypes(path) if dtypes is None else dtypes
        details = self._runs[0].get_input_details()
        self._dtypes = {port: detail["dtype"] for port, detail in details.items()}
        self._stored_ports = self._integer_ports({**details, **self._runs[0].get_output_details()})

    @property
    def encodings(self) -> dict[str, PortEncoding]:
        from edgewright.targets.base import PortEncoding

        return {name: PortEncoding(*stored) for name, stored in self._stored_ports.items()}

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        feed = {name: self._as_stored(name, np.asarray(inputs[name])) for name in self._dtypes}
        results = next(filter(partial(_takes, feed), self._runs), self._runs[0])(**feed)
        names = [name for name in self._outer if name in results]  # LiteRT's own order is the alphabet's
        names += [name for name in results if name not in names]
        return {name: self._real(name, np.array(results[name])) for name in names}

    def _integer_ports(self, details: Mapping[str, Mapping[str, Any]]) -> dict[str, _Stored]:
        found = {}
        for name, detail in details.items():
            scale, zero_point = detail["quantization"]
            if scale and self._outer.get(name) == "float32" and detail["dtype"] != np.float32:
                found[name] = _Stored(np.dtype(detail["dtype"]).name, float(scale), int(zero_point))
        return found

    def _as_stored(self, name: str, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if name not in self._stored_ports:
            return value.astype(self._dtypes[name], copy=False)
        encoding, limits = self._stored_ports[name], np.iinfo(self._dtypes[name])
        steps = np.rint(value / np.float32(encoding.scale)) + encoding.zero_point
        clipped: np.ndarray[Any, Any] = np.clip(steps, limits.min, limits.max)
        return clipped.astype(self._dtypes[name])

    def _real(self, name: str, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if name not in self._stored_ports:
            return value.astype(self._outer.get(name, value.dtype), copy=False)
        encoding = self._stored_ports[name]
        return (value.astype(np.int32) - encoding.zero_point).astype(np.float32) * np.float32(encoding.scale)

    def close(self) -> None:
        self._runs, self._interpreter = [], None

    def __enter__(self) -> TfliteSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _takes(feed: Mapping[str, np.ndarray[Any, Any]], run: Any) -> bool:
    details = run.get_input_details()
    return all(name in details and tuple(details[name]["shape"]) == value.shape for name, value in feed.items())


def _runtime() -> tuple[Any, str]:
    """LiteRT's interpreter with the name of its package; in an environment of the former name alone, that."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        from tflite_runtime.interpreter import Interpreter

        return Interpreter, "tflite-runtime"
    return Interpreter, "ai-edge-litert"


def _recorded_dtypes(path: Path) -> dict[str, str]:
    from edgewright.targets.tflite.boundary import recorded_dtypes

    return recorded_dtypes(path)


def open_alone(path: Path, threads: int, dtypes: Mapping[str, str]) -> TfliteSession:
    return TfliteSession(path, threads, dtypes)
