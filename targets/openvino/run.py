"""Run an IR in OpenVINO's CPU plugin on this machine. Imports that and numpy alone (`PinnedRuntime.script`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from edgewright.targets.base import Arrays, PortEncoding


def compile_model(path: Path, threads: int, *, profiling: bool = False) -> Any:
    """Compile for the CPU. By default the plugin computes in bfloat16 where the CPU has it: parity needs float32."""
    import openvino

    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERF_COUNT": profiling,
    }
    return openvino.Core().compile_model(str(path), "CPU", options)


class OpenvinoSession:
    """An open IR."""

    provenance = "measured-on-host"
    encodings: ClassVar[Mapping[str, PortEncoding]] = MappingProxyType({})

    def __init__(self, path: Path, threads: int = 1) -> None:
        import openvino

        self.runtime = f"openvino {openvino.__version__.split('-')[0]}"
        self._compiled: Any = compile_model(path, threads)
        self._request: Any = self._compiled.create_infer_request()

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        feed = {
            port.any_name: np.asarray(inputs[port.any_name], port.element_type.to_dtype(), order="C")
            for port in self._compiled.inputs
        }
        results = self._request.infer(feed)
        return {port.any_name: np.array(results[port]) for port in self._compiled.outputs}

    def close(self) -> None:
        self._request = self._compiled = None

    def __enter__(self) -> OpenvinoSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_alone(path: Path, threads: int, dtypes: Mapping[str, str]) -> OpenvinoSession:
    return OpenvinoSession(path, threads)
