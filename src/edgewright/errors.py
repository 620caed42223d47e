"""Every error that edgewright raises on purpose.

Each says what is wrong, what was got, what was expected, where, and what to do; the command line prints exactly
that, without a traceback, and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgewright.targets.base import Refusal


class EdgewrightError(Exception):
    """Bad input or usage. Nothing was written, nothing was lost.

    Args:
        what: one sentence, the problem itself.
        got, expected: the two sides of the disagreement, when there are two.
        where: file, node, key or source line.
        do: the way out.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        where: object = None,
        do: str | None = None,
    ) -> None:
        parts = [("got", got), ("expected", expected), ("where", where), ("what to do", do)]
        self.what = what
        super().__init__("\n".join([what, *(f"  {label}: {value}" for label, value in parts if value is not None)]))


class ReleaseError(EdgewrightError):
    """A release file that cannot be read or does not fit its schema."""


class CaptureError(EdgewrightError):
    """A model that cannot become a graph."""


class ShapeError(EdgewrightError):
    """Sizes that an open dimension does not take."""


class CheckpointError(EdgewrightError):
    """Weights that do not fit the model, or are not finite."""


class CalibrationError(EdgewrightError):
    """Calibration data that is missing, empty, misnamed, misshapen or not finite."""


class RecipeError(EdgewrightError):
    """A compression recipe with unknown passes or settings, or in an impossible order."""


class TrainingError(EdgewrightError):
    """Training that cannot start or go on: its data, its loss, its device or its checkpoint."""


class PassError(EdgewrightError):
    """A pass that failed or broke its own report."""


class DeviceError(EdgewrightError):
    """An unknown device, or a profile that does not fit its schema."""


class TargetError(EdgewrightError):
    """An unknown target, a runtime that is not installed, or a program that a target refuses (see `refusals`)."""

    refusals: tuple[Refusal, ...] = ()


class LoweringError(EdgewrightError):
    """A converter that failed, crashed or ran out of time."""

    exit_code = 1


class PackageError(EdgewrightError):
    """A package that is not one, or whose contents do not match its manifest."""


class ValidationError(EdgewrightError):
    """A comparison or a limit that was missed."""

    exit_code = 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Name the nearest known words, or all of them: "did you mean 'onnx'?" or "one of: coreml, onnx"."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    return "one of: " + ", ".join(names)
