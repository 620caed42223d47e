"""Read a profile file; every mistake in it is told at once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pydantic
from pydantic import BaseModel

from edgewright.device_profiles.schema import DeviceProfile
from edgewright.errors import DeviceError, did_you_mean

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
        problems = [
            _problem(detail["type"], detail["loc"], detail["msg"], detail["input"]) for detail in error.errors()
        ]
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise DeviceError(
            f"the device profile has {count}:\n" + "\n".join(f"  - {problem}" for problem in problems),
            where=where,
            do="correct these keys; docs/devices.md describes a profile",
        ) from error


def _problem(kind: str, path: tuple[int | str, ...], message: str, got: object) -> str:
    key = ".".join(str(part) for part in path) or "the whole profile"
    if kind == "extra_forbidden":
        return f"{key}: unknown key, {did_you_mean(str(path[-1]), _keys_at(path[:-1]))}"
    if kind == "missing":
        return f"{key}: missing"
    if kind == "value_error":
        return f"{key}: {message.removeprefix('Value error, ')}"
    return f"{key}: got {got!r}, expected: {message[0].lower()}{message[1:]}"


def _keys_at(path: tuple[int | str, ...]) -> list[str]:
    """The keys that the schema knows at a place in the profile."""
    model: type[BaseModel] = DeviceProfile
    for part in path:
        if isinstance(part, str):
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model behind `Figure | None` or `tuple[Kernel, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
