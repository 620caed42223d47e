"""The targets by name: ours in one explicit table, third parties' through the entry point group edgewright.targets."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import entry_points

from edgewright.errors import TargetError, did_you_mean
from edgewright.targets.base import Level, Target, release_of

TARGETS = {
    "coreml": "edgewright.targets.coreml:CoremlTarget",
    "onnx": "edgewright.targets.onnx:OnnxTarget",
    "openvino": "edgewright.targets.openvino:OpenvinoTarget",
    "tflite": "edgewright.targets.tflite:TfliteTarget",
}


def target_names() -> tuple[str, ...]:
    return tuple(sorted({*TARGETS, *(entry.name for entry in entry_points(group="edgewright.targets"))}))


def get_target(name: str, minimum: str | None = None) -> Target:
    """The target called `name`. Its runtime is not imported.

    Args:
        minimum: the oldest runtime that its files have to open in, "onnxruntime==1.16" or "iOS==16"; None leaves it
            to the target, and a file then says itself what it needs.
    Raises:
        TargetError: no such target, or it cannot write for a runtime that old.
    """
    where = TARGETS.get(name)
    if where is None:
        for entry in entry_points(group="edgewright.targets", name=name):
            where = entry.value
    if where is None:
        raise TargetError("unknown target", got=repr(name), expected=did_you_mean(name, target_names()))
    module, _, attribute = where.partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    target: Target = kind()
    if minimum is not None:
        target = kind(level_for(target, minimum))
    return target


def level_for(target: Target, minimum: str) -> Level:
    """The newest level that a runtime of this version still opens."""
    wanted, _, version = minimum.partition("==")
    own = {runtime.distribution: runtime.counts_as for runtime in target.capabilities.runtimes}
    name = own.get(wanted) or wanted
    levels = [level for level in target.capabilities.levels if name in level.minimum]
    if not levels or not release_of(version):
        known = sorted({name for level in target.capabilities.levels for name in level.minimum})
        raise TargetError(
            f"{target.name} knows no such oldest runtime",
            got=repr(minimum),
            expected=" or ".join(f"{name}==VERSION" for name in known) or "none: it writes one form",
        )
    open_there = [level for level in levels if release_of(level.minimum[name]) <= release_of(version)]
    if not open_there:
        raise TargetError(
            f"{target.name} cannot write files for {name} {version}",
            expected=f"{name} {levels[0].minimum[name]} or newer",
            do="name a newer runtime as the oldest, or deliver to another target",
        )
    return open_there[-1]


def require_runtime(target: Target) -> None:
    """Raise TargetError when what the target needs is not installed, with the pip extra that brings it."""
    missing = [name for name in target.modules if importlib.util.find_spec(name) is None]
    if missing:
        raise TargetError(
            f"the target {target.name} needs packages that are not installed",
            got="missing: " + ", ".join(missing),
            do=f"pip install 'edgewright[{target.extra}]'",
        )
