"""An environment of its own for one version of one runtime: built once, whole or not at all, and kept for the next."""

from __future__ import annotations

import fcntl
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewright.errors import TargetError, did_you_mean
from edgewright.pipeline.runtimes import Pin
from edgewright.targets.base import release_of

Progress = Callable[[str], None]
BUILD_TIMEOUT_S = 900.0
UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|Max retries|timed out", re.I
)


def default_folder() -> Path:
    """Where environments are kept for this user."""
    caches = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return caches / "edgewright" / "runtimes"


def ready_environment(pin: Pin, folder: Path | None = None, progress: Progress = lambda stage: None) -> Path:
    """The Python interpreter of an environment that holds this version of the runtime, built if it is not there.

    Two processes do not build at once; what an interrupted build left is removed by the next.

    Args:
        folder: where environments are kept; None: the user's cache.
    Raises:
        TargetError: pip cannot find, reach or install it, or what it installed does not import. Nothing is left.
    """
    kept = (folder or default_folder()).absolute()
    name = f"{pin.runtime.distribution}-{pin.version}-py{sys.version_info.major}{sys.version_info.minor}"
    place, staging = kept / name, kept / f".building-{name}"
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with _locked(kept / f".lock-{name}"):
            if not _python(place).exists():  # false, too, where the Python that it was made with has gone
                shutil.rmtree(place, ignore_errors=True)
                progress(f"install {pin}")
                _build(pin, staging, place)
    except OSError as error:
        raise TargetError(
            f"the environment of {pin} cannot be kept", got=error, where=kept, do="name another --runtimes-folder"
        ) from None
    return _python(place)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """The system lets go of the lock when its process ends, however that ends."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(pin: Pin, staging: Path, place: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    try:
        _run(pin, [sys.executable, "-I", "-m", "venv", str(staging)])
        requirements = [str(pin), "numpy<2" if _wants_old_numpy(pin) else "numpy"]
        # Wheels alone: an old runtime that pip would compile takes an hour and then fails.
        options = ["--quiet", "--no-input", "--disable-pip-version-check", "--only-binary=:all:", "--retries=1"]
        _run(pin, [str(_python(staging)), "-I", "-m", "pip", "install", *options, *requirements])
        _run(pin, [str(_python(staging)), "-I", "-c", f"import numpy, {pin.runtime.module}"])
        staging.rename(place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _wants_old_numpy(pin: Pin) -> bool:
    """Wheels from before numpy 2 do not say so, and crash on import with it."""
    return release_of(pin.version) < release_of(pin.runtime.numpy2_since)


def _python(environment: Path) -> Path:
    return environment / "bin" / "python"


def _run(pin: Pin, command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TargetError(
            f"{pin} was not installed in time", got=f"{BUILD_TIMEOUT_S:.0f} s", do="look at the network, try again"
        ) from None
    if done.returncode != 0:
        raise _problem(pin, done.stdout.decode(errors="replace"))


def _problem(pin: Pin, log: str) -> TargetError:
    """What a failed step printed, as an error of ours."""
    last = [line for line in log.strip().split("\n") if line.strip()][-1:]
    known = re.search(rf"{re.escape(str(pin))} \(from versions: ([^)]*)\)", log)
    if UNREACHABLE.search(log):
        return TargetError(
            f"pip cannot reach its package index to install {pin}",
            got=" ".join(last),
            do="try again with a network, or point pip at an index or a folder of wheels that it can reach",
        )
    if known is None:
        return TargetError(f"{pin} could not be installed", got=" ".join(last))
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    versions = [version for version in known[1].split(", ") if re.fullmatch(r"[0-9.]+", version)]
    return TargetError(
        f"pip finds no {pin}",
        got=f"no wheel of it for {python}",
        expected=did_you_mean(pin.version, versions) if versions else None,
    )
