"""Run an .mlpackage: in Core ML on macOS, in the reference interpreter elsewhere."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from edgewright.targets.base import Arrays, Session


def open_session(path: Path, threads: int) -> Session:
    return CoremlSession(path) if sys.platform == "darwin" else ReferenceSession(path, threads)


class _Closing:
    _model: Any

    def close(self) -> None:
        self._model = None

    def __exit__(self, *exc: object) -> None:
        self.close()


class ReferenceSession(_Closing):
    """The interpreter of `reference/`: it shows what the saved file computes, not how fast a phone computes it."""

    provenance = "reference"

    def __init__(self, path: Path, threads: int) -> None:
        import torch
        from edgewright.targets.coreml.reference import ReferenceModel

        torch.set_num_threads(threads)
        self.runtime = f"edgewright reference interpreter (MIL read by coremltools {version('coremltools')})"
        self._model: Any = ReferenceModel.load(path)

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        feed = {name: np.asarray(inputs[name], dtype=dtype) for name, (_, dtype) in self._model.input_specs.items()}
        results: Arrays = self._model.run(feed)
        return results

    def __enter__(self) -> ReferenceSession:
        return self


class CoremlSession(_Closing):
    """Apple's own runtime, all compute units."""

    provenance = "measured-on-host"

    def __init__(self, path: Path) -> None:
        import coremltools

        self.runtime = f"Core ML of macOS {platform.mac_ver()[0]}"
        self._model: Any = coremltools.models.MLModel(str(path))
        integers = coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.INT32
        self._dtypes = {
            port.name: np.int32 if port.type.multiArrayType.dataType == integers else np.float32
            for port in self._model.get_spec().description.input
        }

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        feed = {name: np.asarray(inputs[name], dtype=dtype) for name, dtype in self._dtypes.items()}
        return {name: np.asarray(value) for name, value in self._model.predict(feed).items()}

    def __enter__(self) -> CoremlSession:
        return self
