"""Inspect any file that a target can read, ours or not."""

from __future__ import annotations

from pathlib import Path

from edgewright.errors import TargetError
from edgewright.pipeline.verify import open_package, read_manifest
from edgewright.targets import get_target, require_runtime
from edgewright.targets.base import Artifact, Inspection

SUFFIXES = {".onnx": "onnx", ".tflite": "tflite", ".xml": "openvino", ".mlpackage": "coreml"}


def inspect_path(path: Path) -> Inspection:
    """Inspect a package of ours (a folder or its zip), or a model file by its suffix.

    Raises:
        PackageError: a zip that is no package.
        TargetError: no such file, an unknown kind, a missing runtime, or a file that its runtime cannot read.
    """
    if path.is_file() and path.suffix == ".zip":
        with open_package(path) as folder:
            return inspect_path(folder)
    artifact = _artifact(path)
    target = get_target(artifact.target)
    require_runtime(target)
    try:
        return target.inspect(artifact)
    except Exception as error:  # a damaged file fails in the readers' own ways
        raise TargetError(
            f"the file cannot be read as {target.name}",
            got=f"{type(error).__name__}: {error}".split("\n")[0],
            where=path,
        ) from error


def _artifact(path: Path) -> Artifact:
    if not path.exists():
        raise TargetError("no such file", got=path)
    if path.is_dir() and (path / "manifest.json").is_file():
        manifest = read_manifest(path)
        return get_target(manifest.target).find((path / manifest.artifact).parent)
    name = SUFFIXES.get(path.suffix)
    if name is None:
        raise TargetError(
            "not a file that edgewright inspects", got=path, expected="a package, or " + ", ".join(SUFFIXES)
        )
    files = tuple(sorted(file for file in path.rglob("*") if file.is_file())) if path.is_dir() else (path,)
    weights = path.with_suffix(".bin")
    return Artifact(name, path, (*files, weights) if name == "openvino" and weights.is_file() else files)
