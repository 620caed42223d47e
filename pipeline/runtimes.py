"""Runtimes by name and version, such as onnxruntime==1.17.3: which there are, and what each of them opens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgewright.errors import TargetError, did_you_mean
from edgewright.targets import get_target, level_for, target_names
from edgewright.targets.base import PinnedRuntime, Target

PATTERN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)")  # one exact version, nothing that pip takes for more


@dataclass(frozen=True)
class Pin:
    """One version of one runtime, as pip knows it."""

    runtime: PinnedRuntime
    version: str

    def __str__(self) -> str:
        return f"{self.runtime.distribution}=={self.version}"


def find_pin(text: str, target: Target) -> Pin:
    """Read "onnxruntime==1.17.3" as a runtime that opens the files of `target`.

    Raises:
        TargetError: no exact version, an unknown runtime, or one of another format.
    """
    found = PATTERN.fullmatch(text.strip())
    if found is None:
        raise TargetError(
            "a runtime is named with one exact version", got=repr(text), expected="NAME==VERSION: onnxruntime==1.17.3"
        )
    name, version = re.sub(r"[-_.]+", "-", found[1]).lower(), found[2]
    own = {runtime.distribution: runtime for runtime in target.capabilities.runtimes}
    if name in own:
        return Pin(own[name], version)
    known = {runtime.distribution: other for other in target_names() for runtime in _runtimes_of(other)}
    if name not in known:
        raise TargetError("unknown runtime", got=repr(name), expected=did_you_mean(name, own or known))
    raise TargetError(
        f"{name} does not open the files of {target.name}",
        got=f"{name}, a runtime of {known[name]}",
        expected=" or ".join(f"{name}==VERSION" for name in sorted(own)) or None,
        do=None if own else f"verify without a named runtime: what runs {target.name} is no pip package",
    )


def find_pins(texts: Sequence[str], target: Target) -> tuple[Pin, ...]:
    return tuple(find_pin(text, target) for text in dict.fromkeys(texts))


def oldest_of(pins: Sequence[Pin], target: Target) -> str | None:
    """The pin that asks for the oldest form of a file; None where the target's own is as old.

    Raises:
        TargetError: the target cannot write for a runtime that old.
    """
    levels = target.capabilities.levels
    counted = [pin for pin in pins if pin.runtime.counts_as]
    if not counted or not levels:
        return None
    oldest = min(counted, key=lambda pin: levels.index(level_for(target, str(pin))))
    own = next(place for place, level in enumerate(levels) if level.minimum == target.capabilities.minimum)
    return str(oldest) if levels.index(level_for(target, str(oldest))) <= own else None


def _runtimes_of(name: str) -> tuple[PinnedRuntime, ...]:
    return get_target(name).capabilities.runtimes
