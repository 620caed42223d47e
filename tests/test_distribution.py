"""What a wheel holds: code alone is not enough, profiles, templates and schemas have to travel with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="setuptools is not installed")

ROOT = Path(__file__).parents[1]
DATA = {".toml", ".j2", ".json"}
FOLDERS = ("pipeline", "targets", "calibration", "device_profiles")


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names inside of a wheel, built from a copy so that no build folder is left in the repository."""
    scratch = tmp_path_factory.mktemp("wheel")
    source = scratch / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("src", *FOLDERS):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(scratch), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_wheel_holds_every_module_and_data_file(folder: str, members: set[str]) -> None:
    wanted = {
        f"edgewright/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", *DATA} and "__pycache__" not in path.parts
    }
    assert not wanted - members


@pytest.mark.slow
def test_wheel_says_that_it_is_typed_and_holds_no_tests(members: set[str]) -> None:
    assert "edgewright/py.typed" in members
    tops = {name.partition("/")[0] for name in members}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgewright"}
