"""The command line around the export: help, versions, devices, doctor, inspect."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgewright import __version__
from edgewright.device_profiles import profile_names
from edgewright.targets import get_target, target_names
from tests.small_release import ALL_TARGETS, package_of, run_command


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("--version") == 0
    assert capsys.readouterr().out == f"edgewright {__version__}\n"


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for word in ("export", "verify", "inspect", "devices", "doctor", "Exit codes"):
        assert word in text


@pytest.mark.parametrize("command", ["export", "verify", "inspect", "devices", "doctor"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(command, "--help") == 0
    assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("exprot",),
        ("export", "release.toml"),
        ("verify",),
        ("export", "a", "--out", "b", "--timeout", "0"),
        ("doctor", "x"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(*arguments) == 2
    printed = capsys.readouterr()
    assert "Usage:" in printed.err
    assert "Traceback" not in printed.err


def test_devices_lists_every_profile_with_its_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("devices") == 0
    text = capsys.readouterr().out
    for name in profile_names():
        assert f" {name} " in text
    assert "coreml" in text


def test_doctor_tells_what_is_ready_and_how_to_get_the_rest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    missing = get_target("coreml").modules
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    assert run_command("doctor") == 0
    rows = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.split("\n") if line.startswith("│")}
    assert set(rows) == set(target_names())
    assert " no " in rows["coreml"]
    assert "edgewright[coreml]" in rows["coreml"]


def test_the_quick_commands_import_neither_torch_nor_a_runtime() -> None:
    code = (
        "import sys; from edgewright.pipeline.cli import app; app(['{}'], standalone_mode=False); "
        "heavy = {{'torch', 'onnxruntime', 'openvino', 'coremltools', 'litert_torch'}}; "
        "print('HEAVY', sorted(heavy & {{*sys.modules}}))"
    )
    for command in ("devices", "doctor"):
        done = subprocess.run([sys.executable, "-c", code.format(command)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("HEAVY []\n")


@pytest.mark.slow
@pytest.mark.parametrize("target", ALL_TARGETS)
def test_inspect_shows_operations_bytes_and_precision(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    package = package_of(target)
    main = package / json.loads((package / "manifest.json").read_text())["artifact"]
    tables = []
    for path in (package, package.with_name(package.name + ".zip"), main):
        assert run_command("inspect", path) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] == tables[2]
    assert "100.0% of " in tables[0]
    assert "multiply-accumulates in 8 bits or fewer" in tables[0]
    assert "bytes of int8" in tables[0] or "bytes of uint8" in tables[0]


@pytest.mark.slow
@pytest.mark.parametrize("target", ALL_TARGETS)
def test_inspect_gives_json(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("inspect", package_of(target), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    manifest = json.loads((package_of(target) / "manifest.json").read_text())
    assert found["format"] == manifest["format"]
    assert found["bytes_by_dtype"] == manifest["bytes_by_dtype"]
    assert found["low_precision_share"] == manifest["low_precision_share"]["value"]
    assert sum(operation["macs"] for operation in found["operations"]) == 2 * (16 * 48 + 48 * 32) + 32 * 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", b"no model", "the file cannot be read as onnx"),
        ("model.tflite", b"no model", "the file holds no TFLite model"),
        ("model.xml", b"<html></html>", "the file cannot be read as openvino"),
        ("model.bin", b"", "not a file that edgewright inspects"),
        ("model.zip", b"no archive", "not an edgewright package"),
        ("nowhere.onnx", None, "no such file"),
    ],
)
def test_inspect_refuses_what_it_cannot_read(
    name: str, content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert run_command("inspect", tmp_path / name) == 2
    error = capsys.readouterr().err
    assert message in error
    assert name in error
    assert "Traceback" not in error
