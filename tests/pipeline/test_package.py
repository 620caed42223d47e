"""Packages: sealed to the same bytes, published whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgewright.pipeline.manifest import Manifest
from edgewright.pipeline.package import (
    file_records,
    publish,
    read_vectors,
    sha256_of,
    write_manifest,
    write_vectors,
    zip_package,
)
from tests.small_release import (
    ALL_TARGETS,
    contents,
    exported,
    is_installed,
    package_of,
)


def test_vectors_come_back_as_they_were_written(tmp_path: Path) -> None:
    inputs = [{"x": np.full((1, 2), number, np.float32), "k": np.array([number])} for number in range(12)]
    outputs = [{"a/b": np.array([[number]], np.int32).T} for number in range(12)]
    write_vectors(tmp_path / "vectors.safetensors", inputs, outputs)
    found = read_vectors(tmp_path / "vectors.safetensors")
    for number, (given, expected) in enumerate(found):
        np.testing.assert_array_equal(given["x"], inputs[number]["x"])
        np.testing.assert_array_equal(given["k"], [number])
        np.testing.assert_array_equal(expected["a/b"], [[number]])
    assert len(found) == 12


def test_published_files_and_folders_take_their_places_whole(tmp_path: Path) -> None:
    staging, out = tmp_path / "staging", tmp_path / "out"
    for folder, word in ((out, "old"), (staging, "new")):
        (folder / "package" / "artifact").mkdir(parents=True)
        (folder / "package" / "artifact" / word).write_text(word)
        (folder / "package.zip").write_text(word)
    publish({staging / name: out / name for name in ("package", "package.zip")})
    assert contents(out).keys() == {"package", "package/artifact", "package/artifact/new", "package.zip"}
    assert (out / "package.zip").read_text() == "new"
    assert list(staging.iterdir()) == []


def test_a_folder_that_cannot_be_published_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging, out = tmp_path / "staging", tmp_path / "out"
    for folder, word in ((out, "old"), (staging, "new")):
        (folder / "package").mkdir(parents=True)
        (folder / "package" / "file").write_text(word)
    rename = os.rename

    def failing(source: Path, place: Path) -> None:
        if source == staging / "package":
            raise OSError(28, "No space left on device")
        rename(source, place)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="No space left"):
        publish({staging / "package": out / "package"})
    assert (out / "package" / "file").read_text() == "old"


@pytest.mark.slow
def test_a_package_holds_what_its_manifest_says() -> None:
    package = package_of("onnx")
    manifest = Manifest.model_validate_json((package / "manifest.json").read_text())
    assert manifest.files == file_records(package)
    assert sorted(manifest.files) == sorted([manifest.artifact, "vectors.safetensors"])
    assert manifest.files[manifest.artifact].sha256 == sha256_of(package / manifest.artifact)
    assert [(port.name, port.shape, port.dtype) for port in manifest.inputs] == [("x", (1, 16), "float32")]
    assert [(port.name, port.shape, port.dtype) for port in manifest.outputs] == [("logits", (1, 4), "float32")]
    vectors = load_file(package / "vectors.safetensors")
    assert sorted(vectors) == sorted(
        f"{number}/{name}" for number in range(manifest.vectors.samples) for name in ("input/x", "output/logits")
    )
    text = (package / "manifest.json").read_text()
    assert str(package.parent) not in text, "no path of the machine that made it"


@pytest.mark.slow
def test_the_zip_holds_the_folder_byte_by_byte_without_times() -> None:
    package = package_of("onnx")
    with zipfile.ZipFile(package.with_name(package.name + ".zip")) as zipped:
        found = {info.filename: zipped.read(info) for info in zipped.infolist()}
        assert {info.date_time for info in zipped.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert found == {
        path.relative_to(package.parent).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()
    }


@pytest.mark.slow
def test_packing_again_gives_the_same_zip(tmp_path: Path) -> None:
    import shutil

    package = Path(shutil.copytree(package_of("onnx"), tmp_path / package_of("onnx").name))
    manifest = Manifest.model_validate_json((package / "manifest.json").read_text())
    for path in package.rglob("*"):
        os.utime(path, (0, 10**9))
    write_manifest(package, manifest)
    archive = zip_package(package)
    assert archive.read_bytes() == package_of("onnx").with_name(archive.name).read_bytes()


def without_measurements(package: Path) -> dict[str, object]:
    """A package's files by digest, and its manifest without the one part that differs between equal builds."""
    manifest = json.loads((package / "manifest.json").read_text())
    manifest.pop("measurements")
    return {**contents(package), "manifest.json": manifest}


def all_packages(out: Path) -> dict[str, dict[str, object]]:
    return {path.name: without_measurements(path) for path in sorted(out.iterdir()) if path.is_dir()}


@pytest.mark.slow
def test_equal_exports_give_equal_bytes_wherever_they_run(tmp_path: Path) -> None:
    """Once in this process, once in another one with another working directory and another hash seed."""
    out = exported()
    release = os.path.relpath(out.parent / "release" / "release.toml", tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-c", "from edgewright.pipeline.cli import main; main()", "export"]
    done = subprocess.run(
        [*command, release, "--out", "../second"],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONHASHSEED": "4242"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    first = all_packages(out)
    assert len(first) == len([target for target in ALL_TARGETS if is_installed(target)])
    assert all_packages(tmp_path / "second") == first
