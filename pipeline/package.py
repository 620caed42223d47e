"""Packages: a folder and a zip with the artifact, its manifest and test vectors; written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from edgewright.pipeline.manifest import FileRecord, Manifest
from edgewright.targets.base import Arrays

MANIFEST, VECTORS, ARTIFACT = "manifest.json", "vectors.safetensors", "artifact"
EPOCH = (1980, 1, 1, 0, 0, 0)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Every file below a folder but its manifest, by relative path with forward slashes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {
        path.relative_to(folder).as_posix(): FileRecord(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in files
    }


def write_vectors(path: Path, inputs: Iterable[Arrays], outputs: Iterable[Arrays]) -> None:
    """Inputs and expected outputs of some samples, as safetensors."""
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    for number, (given, expected) in enumerate(zip(inputs, outputs, strict=True)):
        for kind, arrays in (("input", given), ("output", expected)):
            tensors |= {f"{number}/{kind}/{name}": np.ascontiguousarray(value) for name, value in arrays.items()}
    save_file(tensors, str(path))
    path.chmod(0o644)  # safetensors writes for the owner alone


def read_vectors(path: Path) -> list[tuple[Arrays, Arrays]]:
    from safetensors.numpy import load_file

    found: dict[int, tuple[Arrays, Arrays]] = {}
    for key, value in load_file(str(path)).items():
        number, kind, name = key.split("/", 2)
        found.setdefault(int(number), ({}, {}))[kind == "output"][name] = value
    return [found[number] for number in sorted(found)]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def zip_package(folder: Path) -> Path:
    """Write the zip beside a staged package; its bytes depend on the contents alone."""
    archive = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as zipped:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}", EPOCH)
            entry.compress_type, entry.create_system, entry.external_attr = (
                zipfile.ZIP_DEFLATED,
                3,
                0o644 << 16,
            )
            zipped.writestr(entry, path.read_bytes())
    return archive


def publish(staged: Mapping[Path, Path]) -> None:
    """Move staged files and folders to their places; each is either the old or the new one, whole.

    Staging has to lie on the same file system. A folder that is replaced is moved aside first and moved back if the
    new one cannot take its place.
    """
    for source, place in staged.items():
        _sync(source)
        if not place.is_dir():
            os.replace(source, place)
            continue
        aside = source.with_name(source.name + ".old")
        os.rename(place, aside)
        try:
            os.rename(source, place)
        except BaseException:
            os.rename(aside, place)
            raise
        shutil.rmtree(aside)


def _sync(path: Path) -> None:
    """Bring the bytes to the disk before the name: a crash then leaves no empty file under the final name."""
    for file in [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
