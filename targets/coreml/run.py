"""Run an .mlpackage: in Core ML on macOS, in the reference interpreter elsewhere."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from edgewright.pipeline.shapes import SHAPES
from edgewright.targets.base import Arrays, PortEncoding, Session
from edgewright.targets.coreml.lower import DTYPES
from edgewright.targets.sized import with_sizes


def open_session(path: Path, threads: int) -> Session:
    session = CoremlSession(path) if sys.platform == "darwin" else ReferenceSession(path, threads)
    return with_sizes(session, _recorded(path, SHAPES))


def _recorded(path: Path, key: str) -> str | None:
    """What the lowering noted in the package; None in packages of others."""
    from coremltools.models.utils import load_spec

    notes: Mapping[str, str] = load_spec(str(path)).description.metadata.userDefined
    return notes.get(key)


def _recorded_dtypes(path: Path) -> dict[str, str]:
    """The program's own output dtypes."""
    found: dict[str, str] = json.loads(_recorded(path, DTYPES) or "{}")
    return found


class _Closing:
    _model: Any
    encodings: ClassVar[Mapping[str, PortEncoding]] = MappingProxyType({})
    _outer: dict[str, str]

    def _widen(self, results: Mapping[str, Any]) -> Arrays:
        """Core ML narrows int64 to int32 and bool to a number: back to what the program returns."""
        return {name: np.asarray(value, dtype=self._outer.get(name)) for name, value in results.items()}

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
        self._outer = _recorded_dtypes(path)

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        specs = self._model.input_specs.items()
        feed = {name: np.atleast_1d(np.asarray(inputs[name], dtype=dtype)) for name, (_, dtype) in specs}
        return self._widen(self._model.run(feed))

    def __enter__(self) -> ReferenceSession:
        return self


class CoremlSession(_Closing):
    """Apple's own runtime, all compute units."""

    provenance = "measured-on-host"

    def __init__(self, path: Path) -> None:
        import coremltools

        self.runtime = f"Core ML of macOS {platform.mac_ver()[0]}"
        self._model: Any = coremltools.models.MLModel(str(path))
        self._outer = _recorded_dtypes(path)
        integers = coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.INT32
        self._dtypes = {
            port.name: np.int32 if port.type.multiArrayType.dataType == integers else np.float32
            for port in self._model.get_spec().description.input
        }

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        feed = {name: np.atleast_1d(np.asarray(inputs[name], dtype=dtype)) for name, dtype in self._dtypes.items()}
        return self._widen(self._model.predict(feed))

    def __enter__(self) -> CoremlSession:
        return self
