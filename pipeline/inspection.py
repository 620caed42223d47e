"""Inspect any file that a target can read, ours or not."""

from __future__ import annotations

from pathlib import Path

from edgewright.errors import TargetError
from edgewright.pipeline.verify import open_package, read_manifest
from edgewright.targets import get_target, require_runtime, target_names
from edgewright.targets.base import Artifact, Inspection

ALSO = {".mlmodel": "coreml"}  # read, never written


def inspect_path(path: Path) -> Inspection:
    """Inspect a package of ours (a folder or its zip), or a model file by its suffix.

    Raises:
        PackageError: a zip that is no package.
        TargetError: no such file, an unknown kind, a missing runtime, or a file that its runtime cannot read.
    """
    return inspect_with_target(path)[0]


def inspect_with_target(path: Path) -> tuple[Inspection, str]:
    """The same, with the name of the target whose file it is."""
    if path.is_file() and path.suffix == ".zip":
        with open_package(path) as folder:
            return inspect_with_target(folder)
    artifact = _artifact(path)
    target = get_target(artifact.target)
    require_runtime(target)
    try:
        return target.inspect(artifact), target.name
    except TargetError:
        raise
    except Exception as error:  # a damaged file fails in the readers' own ways
        raise TargetError(
            f"the file cannot be read as {target.name}",
            got=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
            where=path,
        ) from error


def _artifact(path: Path) -> Artifact:
    if not path.exists():
        raise TargetError("no such file", got=path)
    if path.is_dir() and (path / "manifest.json").is_file():
        manifest = read_manifest(path)
        return get_target(manifest.target).find((path / manifest.artifact).parent)
    suffixes = {get_target(name).suffix: name for name in target_names()} | ALSO
    name = suffixes.get(path.suffix)
    if name is None:
        raise TargetError(
            "not a file that edgewright inspects", got=path, expected="a package, or " + ", ".join(suffixes)
        )
    files = tuple(sorted(file for file in path.rglob("*") if file.is_file())) if path.is_dir() else (path,)
    weights = path.with_suffix(".bin")
    return Artifact(name, path, (*files, weights) if name == "openvino" and weights.is_file() else files)
