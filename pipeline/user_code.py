"""Where an error came from: the user's own line, not the library's that it passed through."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path


def user_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost frame of the traceback that is neither a library's nor ours; None when there is none."""
    library = sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], sysconfig.get_paths()["stdlib"]
    ours = Path(__file__).resolve().parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*library, "<")) and not Path(frame.filename).resolve().is_relative_to(ours)
    ]
    return frames[-1] if frames else None


def user_line(error: BaseException) -> str | None:
    """That frame as `file:line, in function: source`."""
    frame = user_frame(error)
    return frame and f"{frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"
