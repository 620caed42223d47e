"""The folder inside the output folder where all is made ready: on the same disk, so that a rename publishes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from edgewright.errors import PackageError, ReleaseError

PREFIX = ".edgewright-"


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """Make the output folder and a staging folder in it; the latter is gone afterwards, however the block ends.

    What a killed run left behind is removed first.

    Raises:
        ReleaseError: the output folder is not writable.
        PackageError: the disk is full, or another fault of the file system; what was there before is untouched.
    """
    is_new = not out.exists()
    staging = out / f"{PREFIX}{os.getpid()}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        staging.mkdir()
    except OSError as error:
        raise ReleaseError(
            "the output folder is not writable",
            got=f"{error.strerror} ({error.filename})",
            where=out,
            do="choose another --out",
        ) from None
    try:
        yield staging
    except OSError as error:
        raise PackageError(
            "the packages cannot be written",
            got=f"{error.strerror} ({error.filename})",
            where=out,
            do="make room on the disk; packages that were there before are whole",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new and not any(out.iterdir()):
            out.rmdir()


def _remove_leftovers(out: Path) -> None:
    for folder in out.glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX)
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
