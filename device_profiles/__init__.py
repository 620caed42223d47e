"""Devices as data: what each can run, how fast and in how much memory, every figure with its source."""

from __future__ import annotations

from pathlib import Path

from edgewright.device_profiles.load import FOLDER, read_profile
from edgewright.device_profiles.schema import DeviceProfile, Figure, Runtime
from edgewright.errors import DeviceError, did_you_mean

__all__ = ["DeviceProfile", "Figure", "Runtime", "load_profile", "profile_names"]

HOST = "host"


def profile_names() -> tuple[str, ...]:
    """The devices that ship with edgewright, and "host", this machine; sorted."""
    return tuple(sorted([HOST, *(file.stem for file in FOLDER.glob("*.toml"))]))


def load_profile(id_or_path: str | Path) -> DeviceProfile:
    """Load a shipped profile by its id, "host" by looking at this machine, or a user's own .toml by its path.

    Raises:
        DeviceError: an unknown id (with the nearest known ones), or a file that does not fit the schema.
    """
    name = str(id_or_path)
    if isinstance(id_or_path, Path) or name.endswith(".toml"):
        return read_profile(Path(id_or_path))
    if name == HOST:
        from edgewright.device_profiles.host import detect_host

        return detect_host()
    if name not in profile_names():
        raise DeviceError(
            "unknown device",
            got=repr(name),
            expected=did_you_mean(name, profile_names()),
            do="name a shipped device, or give the path of your own profile, such as ./my-board.toml",
        )
    return read_profile(FOLDER / f"{name}.toml")
