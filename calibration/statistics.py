"""Calibration statistics in a file: another observer, or the same export again, needs no run over the data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from edgewright.calibration.batches import digest_of
from edgewright.calibration.extremes import Averages, Extremes, Moments, Statistic
from edgewright.calibration.histogram import Histogram
from edgewright.calibration.keyed_file import KeyedFile
from edgewright.errors import CalibrationError

FORMAT = "edgewright calibration statistics 1"
OTHER = {
    "format": "are in another format",
    "program": "are of another program (another model, checkpoint or recipe)",
    "data": "are of other calibration data",
}
State = dict[str, Tensor]


class ValueStatistics:
    """All that calibration keeps of one value: always its extremes and moments, more where an observer wants it.

    Args:
        wanted: the kinds of statistics that observers rest on.
        axis: the channels' axis of the encoding; None: one encoding for the tensor.
    """

    def __init__(self, wanted: Iterable[type[Statistic]], axis: int | None = None) -> None:
        wanted = set(wanted)
        self.extremes, self.moments = Extremes(axis), Moments()
        self.averages = Averages(axis) if Averages in wanted else None
        self.histogram = Histogram(axis) if Histogram in wanted else None
        self.channels: Extremes | None = None  # of a tensor with one encoding

    def of(self, kind: type[Statistic]) -> Statistic:
        """The statistic that an observer rests on."""
        return next(part for part in self._parts().values() if type(part) is kind)

    def update(self, values: Tensor) -> bool:
        """Take a tensor in, or say False: it has NaN or infinity. One without elements changes nothing."""
        if not values.numel():
            return True
        self.extremes.update(values)
        if not math.isfinite(float(self.extremes.low.min()) - float(self.extremes.high.max())):
            return False
        for part in self._parts().values():
            if part is not self.extremes:
                part.update(values)
        return True

    def state(self) -> State:
        parts = self._parts().items()
        return {f"{name}.{key}": tensor.clone() for name, part in parts for key, tensor in part.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, part in self._parts().items():
            part.load({key.partition(".")[2]: kept for key, kept in state.items() if key.startswith(f"{name}.")})

    def _parts(self) -> dict[str, Statistic]:
        parts: dict[str, Statistic | None] = {
            "extremes": self.extremes,
            "moments": self.moments,
            "averages": self.averages,
            "histogram": self.histogram,
            "channels": self.channels,
        }
        return {name: part for name, part in parts.items() if part is not None}


@dataclass(frozen=True)
class StatisticsFile:
    """One safetensors file of statistics by value, good for one program and one set of calibration data.

    Args:
        program, data: digests.
    """

    path: Path
    program: str
    data: str

    @staticmethod
    def of(path: Path, program: str, batches: Iterable[Mapping[str, Tensor]]) -> StatisticsFile:
        return StatisticsFile(path, program, digest_of({n: t.numpy() for n, t in batch.items()} for batch in batches))

    def read(self) -> dict[str, State]:
        """The statistics by value; empty when there is no such file.

        Raises:
            CalibrationError: it cannot be read, was made of another program or other data, or has no folder.
        """
        found: dict[str, State] = {}
        for key, tensor in self._file.read().items():
            value, _, part = key.rpartition("/")
            found.setdefault(value, {})[part] = tensor
        return found

    def write(self, values: Mapping[str, State]) -> None:
        """Put the file in place whole, or leave what was there.

        Raises:
            CalibrationError: the folder is missing or cannot be written.
        """
        self._file.write({f"{value}/{part}": kept for value, state in values.items() for part, kept in state.items()})

    @property
    def _file(self) -> KeyedFile:
        keys = {"format": FORMAT, "program": self.program, "data": self.data}
        return KeyedFile(self.path, "calibration statistics", keys, OTHER, "calibration.statistics", CalibrationError)
