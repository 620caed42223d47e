"""Run an ONNX file in ONNX Runtime on this machine. Imports that and numpy alone (`PinnedRuntime.script`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from edgewright.targets.base import Arrays, PortEncoding

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
}


class OnnxSession:
    """An open file. One process, the CPU provider, the given number of threads."""

    provenance = "measured-on-host"
    encodings: ClassVar[Mapping[str, PortEncoding]] = MappingProxyType({})

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime

        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._dtypes = {port.name: DTYPES[port.type] for port in self._session.get_inputs()}
        self._outputs = [port.name for port in self._session.get_outputs()]
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        feed = {name: np.asarray(inputs[name], dtype=dtype) for name, dtype in self._dtypes.items()}
        return dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> OnnxSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_alone(path: Path, threads: int, dtypes: Mapping[str, str]) -> OnnxSession:
    return OnnxSession(path, threads)
