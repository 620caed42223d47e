"""Read a profile file; every mistake in it is told at once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from edgewright.device_profiles.schema import DeviceProfile
from edgewright.errors import DeviceError
from edgewright.problems import problems_of

FOLDER = Path(__file__).resolve().parent


def read_profile(file: Path) -> DeviceProfile:
    """Read one TOML profile.

    Raises:
        DeviceError: the file is missing, is not TOML or does not fit the schema; names the file and every bad
            key.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError(
            "the device profile cannot be read", got=error.strerror, where=file, do="give a .toml that exists"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeviceError("the device profile is not TOML", got=error, where=file) from error
    return parse_profile(content, file)


def parse_profile(content: Mapping[str, Any], where: object) -> DeviceProfile:
    """Check a profile's content against the schema; `where` names it in the error."""
    try:
        return DeviceProfile.model_validate(content)
    except pydantic.ValidationError as error:
        problems = problems_of(error, DeviceProfile)
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise DeviceError(
            f"the device profile has {count}:\n" + "\n".join(f"  - {problem}" for problem in problems),
            where=where,
            do="correct these keys; docs/devices.md describes a profile",
        ) from error
