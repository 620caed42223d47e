"""`edgewright verify`: 0 for a package that is as it was sealed and runs, 1 for one that is not, 2 for no package."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.pipeline.package import sha256_of
from edgewright.pipeline.verify import verify
from tests.small_release import ALL_TARGETS, package_of, run_command

pytestmark = pytest.mark.slow


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of an ONNX package that a test may damage."""
    return Path(shutil.copytree(package_of("onnx"), tmp_path / "package"))


def outcome(package: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and everything that was printed, in one line of words."""
    code = run_command("verify", package)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return code, " ".join((printed.out + printed.err).split())


def edit_manifest(package: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    file = package / "manifest.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def artifact(package: Path) -> Path:
    return package / str(json.loads((package / "manifest.json").read_text())["artifact"])


@pytest.mark.parametrize("target", ALL_TARGETS)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_every_package_that_an_export_made_verifies(target: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = package_of(target)
    code, text = outcome(folder if form == "folder" else folder.with_name(folder.name + ".zip"), capsys)
    assert code == 0, text
    assert "passed logits:" in text
    assert f"verified {folder.name} ({target} for {ALL_TARGETS[target]})" in text


def test_a_changed_file_is_named_with_both_hashes(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = artifact(package)
    before = sha256_of(file)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    code, text = outcome(package, capsys)
    assert code == 1
    assert (
        f"{file.relative_to(package).as_posix()}: changed (sha256 {sha256_of(file)[:12]}, manifest {before[:12]})"
        in text
    )
    assert "not verified" in text


def test_a_missing_file_is_named(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (package / "vectors.safetensors").unlink()
    code, text = outcome(package, capsys)
    assert code == 1
    assert "vectors.safetensors: missing" in text


def test_an_extra_file_is_named(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (package / "artifact" / "extra.bin").write_bytes(b"")
    code, text = outcome(package, capsys)
    assert code == 1
    assert "artifact/extra.bin: not in the manifest" in text


def test_a_link_is_named_even_to_the_same_bytes(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = artifact(package)
    file.rename(tmp_path / "elsewhere.onnx")
    file.symlink_to(tmp_path / "elsewhere.onnx")
    code, text = outcome(package, capsys)
    assert code == 1
    assert f"{file.relative_to(package).as_posix()}: a link" in text


def test_an_edited_hash_in_the_manifest_is_a_mismatch(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(package, lambda content: content["files"]["vectors.safetensors"].update(sha256="0" * 64))
    code, text = outcome(package, capsys)
    assert code == 1
    assert "vectors.safetensors: changed" in text
    assert "manifest 000000000000" in text


def test_test_vectors_of_other_numbers_are_missed(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that agree with the manifest are not enough: the artifact runs."""
    from edgewright.pipeline.package import read_vectors, write_vectors

    vectors = package / "vectors.safetensors"
    pairs = read_vectors(vectors)
    write_vectors(
        vectors, [given for given, _ in pairs], [{name: -v for name, v in outputs.items()} for _, outputs in pairs]
    )
    record = {"sha256": sha256_of(vectors), "bytes": vectors.stat().st_size}
    edit_manifest(package, lambda content: content["files"].update({"vectors.safetensors": record}))
    code, text = outcome(package, capsys)
    assert code == 1
    assert "missed logits:" in text
    assert "floor" in text


@pytest.mark.parametrize("name", ["artifact", "vectors.safetensors"])
def test_a_file_that_its_reader_does_not_know_is_a_miss(
    name: str, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = artifact(package) if name == "artifact" else package / name
    file.write_bytes(b"neither a model nor a tensor")
    record = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
    place = file.relative_to(package).as_posix()
    edit_manifest(package, lambda content: content["files"].update({place: record}))
    code, text = outcome(package, capsys)
    assert code == 1
    assert "does not run on its test vectors" in text


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname", "a/../../b", "a\\b"])
def test_a_manifest_that_points_outside_is_no_package(
    name: str, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_manifest(package, lambda content: content.update(artifact=name))
    code, text = outcome(package, capsys)
    assert code == 2
    assert "the manifest names a file outside of the package" in text


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda content: content.update(traget="onnx"), "traget: unknown key, did you mean 'target'?"),
    "wrong type": (lambda content: content["vectors"].update(samples="four"), "vectors.samples: got 'four'"),
    "missing key": (lambda content: content.pop("files"), "files: missing"),
    "later schema": (lambda content: content.update(schema_version=99), "schema_version: got 99"),
    "unknown target": (lambda content: content.update(target="onxx"), "did you mean 'onnx'?"),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_manifest_that_does_not_fit_its_schema_is_no_package(
    case: str, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, message = EDITS[case]
    edit_manifest(package, edit)
    code, text = outcome(package, capsys)
    assert code == 2
    assert message in text


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 3000])
def test_a_manifest_that_is_no_json_is_no_package(
    content: bytes, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (package / "manifest.json").write_bytes(content)
    code, text = outcome(package, capsys)
    assert code == 2
    assert "manifest" in text
    assert len(text) < 1000


def test_a_folder_a_text_and_nothing_are_no_packages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    for path in (tmp_path, tmp_path / "text.zip", tmp_path / "nowhere"):
        code, text = outcome(path, capsys)
        assert code == 2
        assert "not an edgewright package" in text


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "package/../../evil", "package\\..\\evil"])
def test_an_archive_with_a_name_outside_is_refused_unpacked(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = outcome(archive(tmp_path / "package.zip", {"package/manifest.json": b"{}", name: b"evil"}), capsys)
    assert code == 2
    assert "unsafe or repeated names" in text
    assert not list(tmp_path.parent.rglob("evil"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_a_name_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = archive(tmp_path / "package.zip", {"package/manifest.json": b"{}"})
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr("package/manifest.json", b"[]")
    code, text = outcome(path, capsys)
    assert code == 2
    assert "a name twice" in text


def test_an_archive_with_a_file_in_the_place_of_a_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = outcome(archive(tmp_path / "package.zip", {"package": b"", "package/manifest.json": b"{}"}), capsys)
    assert code == 2
    assert "the archive is damaged" in text


def test_a_zip_bomb_is_refused_unpacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bomb = archive(tmp_path / "package.zip", {"package/manifest.json": bytes(64 << 20)})
    code, text = outcome(bomb, capsys)
    assert code == 2
    assert "too large to be a package" in text
    assert "67108864 bytes" in text


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_truncated_archive_is_refused(keep: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = package_of("onnx").with_name("raspberry-pi-5-onnx.zip").read_bytes()
    (tmp_path / "package.zip").write_bytes(whole[: int(len(whole) * keep)])
    code, text = outcome(tmp_path / "package.zip", capsys)
    assert code == 2
    assert "edgewright:" in text


def is_intact(path: Path) -> bool:
    """Some bytes of an archive say nothing about its files (times, attributes)."""
    whole = package_of("onnx")
    try:
        with zipfile.ZipFile(path) as zipped:
            return {name: zipped.read(name) for name in zipped.namelist()} == {
                file.relative_to(whole.parent).as_posix(): file.read_bytes()
                for file in whole.rglob("*")
                if file.is_file()
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError):
        return False


def test_an_archive_with_damaged_bytes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Anywhere in the middle: the deflated stream, a header, the table of contents. No traceback, and never 0."""
    whole = package_of("onnx").with_name("raspberry-pi-5-onnx.zip").read_bytes()
    for place in range(40, len(whole), len(whole) // 12):
        damaged = bytearray(whole)
        damaged[place : place + 4] = bytes(byte ^ 0x5A for byte in damaged[place : place + 4])
        (tmp_path / "package.zip").write_bytes(damaged)
        code, text = outcome(tmp_path / "package.zip", capsys)
        assert code == (0 if is_intact(tmp_path / "package.zip") else 2), (place, text)


def test_verify_is_a_function_too(package: Path) -> None:
    found = verify(package)
    assert found.passed
    assert found.outputs["logits"] >= found.manifest.vectors.floor_db
    assert found.provenance == "measured-on-host"
    (package / "extra").write_text("")
    assert not verify(package).passed
