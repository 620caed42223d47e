"""The targets by name: ours in one explicit table, third parties' through the entry point group edgewright.targets."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import entry_points

from edgewright.errors import TargetError, did_you_mean
from edgewright.targets.base import Target

TARGETS = {
    "coreml": "edgewright.targets.coreml:CoremlTarget",
    "onnx": "edgewright.targets.onnx:OnnxTarget",
    "openvino": "edgewright.targets.openvino:OpenvinoTarget",
    "tflite": "edgewright.targets.tflite:TfliteTarget",
}


def target_names() -> tuple[str, ...]:
    return tuple(sorted({*TARGETS, *(entry.name for entry in entry_points(group="edgewright.targets"))}))


def get_target(name: str) -> Target:
    """The target called `name`. Its runtime is not imported.

    Raises:
        TargetError: no such target.
    """
    where = TARGETS.get(name)
    if where is None:
        for entry in entry_points(group="edgewright.targets", name=name):
            where = entry.value
    if where is None:
        raise TargetError("unknown target", got=repr(name), expected=did_you_mean(name, target_names()))
    module, _, attribute = where.partition(":")
    target: Target = getattr(importlib.import_module(module), attribute)()
    return target


def require_runtime(target: Target) -> None:
    """Raise TargetError when what the target needs is not installed, with the pip extra that brings it."""
    missing = [name for name in target.modules if importlib.util.find_spec(name) is None]
    if missing:
        raise TargetError(
            f"the target {target.name} needs packages that are not installed",
            got="missing: " + ", ".join(missing),
            do=f"pip install 'edgewright[{target.extra}]'",
        )
