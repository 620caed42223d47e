"""Named versions of runtimes: an environment is built whole or not at all, and what runs in it is reported as it is."""

from __future__ import annotations

import shutil
import sys
import threading
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from edgewright.errors import EdgewrightError, ReleaseError, TargetError
from edgewright.pipeline import runtimes_run
from edgewright.pipeline.plan import make_plan
from edgewright.pipeline.release import Release
from edgewright.pipeline.runtimes import Pin, find_pin, find_pins, oldest_of
from edgewright.pipeline.runtimes_environment import ready_environment
from edgewright.pipeline.runtimes_run import run_in
from edgewright.targets import get_target
from edgewright.targets.base import PinnedRuntime
from tests.small_release import ALL_TARGETS, deliver, delivery_of, package_of, run_command, write_release

INSTALLED = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "ai-edge-litert"}
PYTHON = f"py{sys.version_info.major}{sys.version_info.minor}"


def installed_pin(target: str) -> str:
    return f"{INSTALLED[target]}=={version(INSTALLED[target])}"


def lend_environment(folder: Path, pin: str, script: str = f'exec "{sys.executable}" "$@"') -> Path:
    """A folder of environments whose only one, for `pin`, is this very environment (or what `script` does)."""
    python = folder / f"{pin.replace('==', '-')}-{PYTHON}" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return folder


# Naming


def test_a_runtime_is_found_by_its_pip_name_in_any_spelling() -> None:
    assert str(find_pin("TFLite_Runtime==2.14.0", get_target("tflite"))) == "tflite-runtime==2.14.0"


@pytest.mark.parametrize(
    ("text", "target", "words"),
    [
        ("onnxruntim==1.17.3", "onnx", ["unknown runtime", "did you mean 'onnxruntime'?"]),
        ("onnxruntime==1.17.3", "tflite", ["does not open the files of tflite", "tflite-runtime==VERSION"]),
        ("onnxruntime==1.17.3", "coreml", ["does not open the files of coreml", "no pip package"]),
        ("onnxruntime", "onnx", ["one exact version", "onnxruntime==1.17.3"]),
        ("onnxruntime>=1.17", "onnx", ["one exact version"]),
        ("onnxruntime==1.17.3 --pre", "onnx", ["one exact version"]),
    ],
)
def test_a_wrong_name_is_told_with_the_way_out(text: str, target: str, words: list[str]) -> None:
    with pytest.raises(TargetError) as caught:
        find_pin(text, get_target(target))
    assert all(word in str(caught.value) for word in words), caught.value
    assert caught.value.exit_code == 2


def test_the_oldest_named_runtime_decides_the_form_unless_the_target_is_older_anyway() -> None:
    target = get_target("onnx")
    assert oldest_of(find_pins(["onnxruntime==1.31.0", "onnxruntime==1.16.3"], target), target) == "onnxruntime==1.16.3"
    older = get_target("onnx", oldest_of(find_pins(["onnxruntime==1.31.0"], target), target))
    assert older.capabilities.minimum == target.capabilities.minimum
    with pytest.raises(TargetError, match=r"onnxruntime 1\.15 or newer"):
        oldest_of(find_pins(["onnxruntime==1.10.0"], target), target)


# Environments, from wheels that the test makes


def write_wheel(folder: Path, name: str, release: str, code: str) -> None:
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{release}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{release}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}/__init__.py", code)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip can install: three versions of a toy runtime (the last is broken), two of something called numpy."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for release in ("1.0.0", "2.0.0"):
        write_wheel(folder, "toy-runtime", release, f"__version__ = '{release}'")
        write_wheel(folder, "numpy", release, f"__version__ = '{release}'")
    write_wheel(folder, "toy-runtime", "3.0.0", "raise ImportError('built for another processor')")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def toy(release: str, script: Path = Path("none.py")) -> Pin:
    return Pin(PinnedRuntime("toy-runtime", "toy_runtime", script, numpy2_since="2.0"), release)


def says(python: Path, code: str) -> str:
    import subprocess

    return subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_an_environment_holds_that_version_and_fitting_numpy_and_is_used_again(tmp_path: Path, wheels: Path) -> None:
    told: list[str] = []
    kept = tmp_path / "kept"
    stale = kept / f".building-toy-runtime-1.0.0-{PYTHON}"
    stale.mkdir(parents=True)  # of a build that was killed
    python = ready_environment(toy("1.0.0"), kept, told.append)
    versions = "import numpy, toy_runtime; print(toy_runtime.__version__, numpy.__version__)"
    assert says(python, versions) == "1.0.0 1.0.0"
    assert not stale.exists()
    shutil.rmtree(wheels)
    assert ready_environment(toy("1.0.0"), kept, told.append) == python
    assert told == ["install toy-runtime==1.0.0"]


@pytest.mark.slow
def test_two_at_once_build_once(tmp_path: Path, wheels: Path) -> None:
    told: list[str] = []
    found: list[Path] = []

    def build() -> None:
        found.append(ready_environment(toy("2.0.0"), tmp_path / "kept", told.append))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["install toy-runtime==2.0.0"]
    assert says(found[0], "import numpy; print(numpy.__version__)") == "2.0.0"
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("release", "words"),
    [
        ("2.0.1", ["pip finds no toy-runtime==2.0.1", "did you mean '2.0.0'"]),
        ("3.0.0", ["could not be installed", "built for another processor"]),
    ],
)
def test_what_cannot_be_installed_leaves_nothing(release: str, words: list[str], tmp_path: Path, wheels: Path) -> None:
    with pytest.raises(TargetError) as caught:
        ready_environment(toy(release), tmp_path / "kept")
    assert all(word in str(caught.value) for word in words), caught.value
    assert [path.name for path in (tmp_path / "kept").iterdir() if path.is_dir()] == []


@pytest.mark.slow
def test_without_a_network_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(TargetError, match="cannot reach its package index"):
        ready_environment(toy("1.0.0"), tmp_path / "kept")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="--runtimes-folder"):
        ready_environment(toy("1.0.0"), tmp_path / "file")


# Runs


SESSION = """
import os, signal, time
import numpy as np


class Session:
    runtime = "toy-runtime 1.0.0"

    def run(self, inputs):
        {act}
        return {{"y": inputs["x"] * 2}}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass


def open_alone(path, threads, dtypes):
    return Session()
"""


def run_toy(tmp_path: Path, act: str, asked: str = "1.0.0") -> runtimes_run.NamedRun:
    script = tmp_path / "run.py"
    script.write_text(SESSION.format(act=act))
    kept = lend_environment(tmp_path / "kept", f"toy-runtime=={asked}")
    x = np.arange(6, dtype=np.float32)
    return run_in(toy(asked, script), tmp_path, [({"x": x}, {"y": x * 2}), ({"x": -x}, {"y": -x * 2})], {}, folder=kept)


def test_every_sample_goes_through(tmp_path: Path) -> None:
    found = run_toy(tmp_path, "pass")
    assert (found.outputs, found.fault, found.runtime) == ({"y": 200.0}, "", "toy-runtime 1.0.0")
    assert found.passes(60.0)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("raise RuntimeError('no such operator')", "RuntimeError: no such operator"),
        ("os._exit(3)", "exit code 3"),
        ("return {'z': inputs['x']}", "no output y"),
        ("return {'y': inputs['x'][:3]}", "shape (3,)"),
    ],
)
def test_what_goes_wrong_there_is_a_fault_and_no_traceback(act: str, words: str, tmp_path: Path) -> None:
    found = run_toy(tmp_path, act)
    assert words in found.fault
    assert not found.outputs
    assert not found.passes(-200.0)


def test_a_runtime_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes_run, "RUN_TIMEOUT_S", 2.0)
    assert "did not end within 2 s" in run_toy(tmp_path, "time.sleep(60)").fault


def test_another_version_than_the_named_one_is_a_fault(tmp_path: Path) -> None:
    assert "its environment holds toy-runtime 1.0.0" in run_toy(tmp_path, "pass", asked="1.0.1").fault


@pytest.mark.parametrize("target", INSTALLED)
def test_what_runs_a_file_elsewhere_imports_nothing_of_ours(target: str) -> None:
    script = next(r for r in get_target(target).capabilities.runtimes if r.distribution == INSTALLED[target]).script
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("alone", {str(script)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert callable(module.open_alone)
print([name for name in sys.modules if name.partition(".")[0] in ("edgewright", "torch", "pydantic")])
"""
    assert says(Path(sys.executable), code) == "[]"


# verify and export


@pytest.mark.slow
@pytest.mark.parametrize("target", INSTALLED)
def test_verify_runs_a_package_in_a_named_runtime(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package, pin = package_of(target), installed_pin(target)
    kept = lend_environment(tmp_path, pin)
    assert run_command("verify", package, "--runtime", pin, "--runtimes-folder", kept) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "passed logits:" in text
    assert f"runtime: {pin.replace('==', ' ')} (measured-on-host)" in text


@pytest.mark.slow
def test_verify_tells_a_crash_and_goes_on_to_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pin = installed_pin("onnx")
    lend_environment(tmp_path, "onnxruntime==0.1", "kill -SEGV $$")
    kept = lend_environment(tmp_path, pin)
    options = ["--runtime", "onnxruntime==0.1", "--runtime", pin, "--runtimes-folder", kept]
    assert run_command("verify", package_of("onnx"), *options) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "fault onnxruntime==0.1: does not run on the test vectors (its process was killed by SIGSEGV)" in text
    assert "passed logits:" in text
    assert "not verified" in text


@pytest.mark.slow
def test_verify_of_a_changed_package_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = Path(shutil.copytree(package_of("onnx"), tmp_path / "package"))
    (package / "extra").write_text("")
    assert run_command("verify", package, "--runtime", "onnxruntime==0.1", "--runtimes-folder", tmp_path / "no") == 1
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_verify_of_another_formats_runtime_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("verify", package_of("tflite"), "--runtime", "onnxruntime==1.17.3") == 2
    assert "does not open the files of tflite" in capsys.readouterr().err


@pytest.mark.slow
def test_a_release_is_verified_on_what_it_names(tmp_path: Path) -> None:
    """One delivery passes in its runtime; another, whose runtime dies, is missed and gets no package."""
    pin = installed_pin("onnx")
    lend_environment(tmp_path / "kept", pin)
    kept = lend_environment(tmp_path / "kept", "onnxruntime==1.17.0", "kill -SEGV $$")
    release = write_release(
        tmp_path / "release",
        deliveries=deliver("onnx", verify_on=[pin])
        + deliver("onnx", name="dies", verify_on=["onnxruntime==1.17.0"])
        + deliver("onnx", name="old", minimum="onnxruntime==1.15.0"),
    )
    out = tmp_path / "out"
    code = run_command("export", release.file, "--out", out, "--runtimes-folder", kept)
    assert code == 1
    good, dead = delivery_of(out, "raspberry-pi-5-onnx"), delivery_of(out, "dies")
    assert good["status"] == "passed"
    assert good["verified_on"][0]["runtime"] == pin.replace("==", " ")
    check = next(check for check in good["checks"] if check["name"] == f"logits in {pin}")
    assert (check["outcome"], check["figure"]["provenance"]) == ("passed", "measured-on-host")
    assert check["figure"]["value"] == good["verified_on"][0]["outputs"]["logits"]
    assert f"logits in {pin}" in (out / "report.html").read_text()
    assert pin in (out / "raspberry-pi-5-onnx" / "manifest.json").read_text()
    assert dead["status"] == "missed"
    assert dead["package"] is None
    assert "runs in onnxruntime==1.17.0 missed" in dead["reason"]
    assert "SIGSEGV" in dead["verified_on"][0]["fault"]
    assert delivery_of(out, "old")["minimum"] == {"onnxruntime": "1.15"}
    assert "opset 18" in delivery_of(out, "old")["format"]


def release_with(**settings: object) -> Release:
    content = {
        "name": "tiny",
        "model": {"source": "os.path:join", "inputs": [{"name": "x", "shape": [1, 16]}]},
        "calibration": {"data": "x.npz"},
        "deliver": [settings],
    }
    return Release.model_validate(content)


def test_the_devices_own_versions_are_planned() -> None:
    plan = make_plan(release_with(device="galaxy-s24", target="onnx", verify_on="device"))
    assert [str(pin) for pin in plan.deliveries[0].pins] == ["onnxruntime==1.23.0"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": "tflite", "verify_on": "device"}, "names no version of LiteRT"),
        ({"target": "tflite", "verify_on": ["onnxruntime==1.17.3"]}, "does not open the files of tflite"),
        ({"target": "onnx", "verify_on": ["onnxruntime==1.9.0"]}, "onnxruntime 1.15 or newer"),
        ({"target": "onnx", "minimum": "iOS==16"}, "onnxruntime==VERSION"),
    ],
)
def test_what_cannot_be_verified_is_refused_before_the_work(settings: dict[str, object], words: str) -> None:
    with pytest.raises(EdgewrightError, match=words) as caught:
        make_plan(release_with(device=ALL_TARGETS[str(settings["target"])], **settings))
    assert isinstance(caught.value, (ReleaseError, TargetError))
    assert caught.value.exit_code == 2
