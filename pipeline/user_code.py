"""Where an error came from: the user's own line, not the library's that it passed through."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path


def user_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost frame of the traceback that is neither a library's nor ours; None when there is none."""
    return _innermost(traceback.extract_tb(error.__traceback__))


def user_line(error: BaseException) -> str | None:
    """That frame as `file:line, in function: source`."""
    return _line(user_frame(error))


def current_line() -> str | None:
    """The user's line that is being executed below us, in the same form; None when no code of theirs is."""
    frames = traceback.extract_stack()
    first = next((place for place, frame in enumerate(frames) if _is_ours(frame)), len(frames))
    return _line(_innermost(frames[first:]))


def _line(frame: traceback.FrameSummary | None) -> str | None:
    return frame and f"{frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return Path(frame.filename).resolve().is_relative_to(Path(__file__).resolve().parent)


def _innermost(frames: Sequence[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    library = sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], sysconfig.get_paths()["stdlib"]
    return next(
        (frame for frame in reversed(frames) if not frame.filename.startswith((*library, "<")) and not _is_ours(frame)),
        None,
    )
