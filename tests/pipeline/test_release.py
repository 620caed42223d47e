"""Bad input in a release file: exit code 2, one clear message, no traceback, and an output folder that stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgewright.errors import ReleaseError, TargetError
from edgewright.pipeline.release import locate_files, read_release
from edgewright.targets import get_target, require_runtime
from tests.small_release import contents, deliver, run_command, write_release


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output folder that holds an older package."""
    folder = tmp_path / "out"
    (folder / "raspberry-pi-5-onnx" / "artifact").mkdir(parents=True)
    (folder / "raspberry-pi-5-onnx" / "artifact" / "model.onnx").write_bytes(b"older")
    (folder / "raspberry-pi-5-onnx.zip").write_bytes(b"older")
    (folder / "release.json").write_text("{}")
    return folder


def refused(release: Path, out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The message of a refused export, once all that holds for every bad input was checked."""
    before = contents(out)
    code = run_command("export", release, "--out", out, *options)
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("edgewright: ")
    assert error.count("edgewright: ") == 1
    assert "Traceback" not in error
    assert contents(out) == before
    return error


BAD_FILES = {
    "unknown key": ("samples = 32", "sampels = 32", "calibration.sampels: unknown key, did you mean 'samples'?"),
    "unknown key of a delivery": (
        'target = "onnx"',
        'target = "onnx"\nlatencyms = 5',
        "deliver.0.latencyms: unknown key, did you mean 'latency_ms'?",
    ),
    "wrong type": ("samples = 32", 'samples = "many"', "calibration.samples: got 'many', expected:"),
    "number out of range": ("samples = 32", "samples = 0", "calibration.samples: got 0, expected:"),
    "TOML syntax": ("samples = 32", "samples = ", "the release file is not TOML"),
    "line of the syntax error": ("samples = 32", "samples = ", "line"),
    "unknown device": ('device = "raspberry-pi-5"', 'device = "rasberry-pi-5"', "did you mean 'raspberry-pi-5'?"),
    "unknown target": ('target = "onnx"', 'target = "onxx"', "got: 'onxx'\n  expected: did you mean 'onnx'?"),
    "unknown pass": ('pass = "quantize"', 'pass = "quantise"', "did you mean 'quantize'"),
    "unknown scheme": ('scheme = "w8a8"', 'scheme = "w8a9"', "got: 'w8a9'\n  expected: did you mean 'w8a8'"),
    "scheme of a later version": ('scheme = "w8a8"', 'scheme = "w2"', "expected: one of: fp32, fp16, bf16, w8a8"),
    "scheme that no pass makes": ('scheme = "w8a8"', 'scheme = "w8a16"', "expected: 'w8', the nearest, or one of"),
    "scheme that the target lacks": (
        'scheme = "w8a8"',
        'scheme = "p4"',
        "onnx has no native form of p4\n  expected: 'w4', the nearest that it has",
    ),
    "unknown setting": ('scheme = "w8a8"', 'scheme = "w8a8"\nobserver_ = "minmax"', "no such setting"),
    "unknown observer": (
        'scheme = "w8a8"',
        'scheme = "w8a8"\nobserver = "histogram"',
        "unknown observer\n  got: 'histogram'\n  expected: best, minmax, moving-average, percentile, mse, entropy",
    ),
    "statistics of another format": ("samples = 32", 'statistics = "kept.npz"', "calibration.statistics: got 'kept"),
    "setting of a wrong type": ('scheme = "w8a8"', 'scheme = "w8a8"\nobserver = 3', "got: 3\n  expected: str"),
    "missing module": ("source = ", 'source = "no_such_module:build" #', "no_such_module cannot be imported"),
    "missing function": (":validation", ":validaton", "has no callable 'validaton'\n  expected: did you mean 'valid"),
    "missing checkpoint": ("weights.safetensors", "wieghts.safetensors", "the checkpoint does not exist"),
    "no source at all": ('data = "', 'data = "nowhere/', "no such data source"),
    "part that does not exist": (
        'target = "onnx"',
        'target = "onnx"\npart = "tower"',
        "deliveries name parts that [[model.parts]] lacks: tower",
    ),
    "named dimension that is no batch": ('["batch", 16]', '["batch", "length"]', "only the first dimension can be"),
    "two inputs of one name": (
        "[calibration]",
        '[[model.inputs]]\nname = "x"\nshape = [1]\n[calibration]',
        "two inputs are called x",
    ),
    "name that leaves the folder": ('target = "onnx"', 'target = "onnx"\nname = ".."', "deliver.0.name: got '..'"),
    "name of our own file": ('target = "onnx"', 'target = "onnx"\nname = "release.json"', "cannot be called release"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_release_file_is_refused_with_the_key_and_the_way_out(
    case: str, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, message = BAD_FILES[case]
    release = write_release(tmp_path / "release")
    release.edit(old, new)
    assert str(message) in refused(release.file, out, capsys)


def test_a_missing_release_file_is_refused_by_name(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(tmp_path / "nowhere.toml", out, capsys)
    assert "the release file does not exist" in message
    assert "nowhere.toml" in message


def test_a_folder_in_the_place_of_the_release_file_is_refused(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the release file cannot be read" in refused(tmp_path, out, capsys)


def test_a_device_that_does_not_carry_the_runtime_is_refused(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_release(tmp_path / "release", deliveries=deliver("coreml", "pixel-8"))
    message = refused(release.file, out, capsys)
    assert "coreml" in message
    assert "pixel" in message.lower()


def test_two_deliveries_of_one_name_are_refused(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = write_release(tmp_path / "release", deliveries=deliver() + deliver())
    message = refused(release.file, out, capsys)
    assert "two deliveries are called raspberry-pi-5-onnx: give each a name of its own" in message


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = write_release(tmp_path / "release", deliveries=deliver("onnx", "pixel-9") + deliver("tflite", name="b"))
    release.edit('target = "tflite"', 'target = "tflight"')
    release.edit('scheme = "w8a8"', 'scheme = "w8a9"')
    release.edit(":answers", ":answer")
    message = refused(release.file, out, capsys)
    assert "4 problems" in message
    for word in ("'pixel-8'", "'tflite'", "'w8a8'", "'answers'"):
        assert word in message


def test_a_module_that_fails_on_import_is_refused_with_the_users_line(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_release(tmp_path / "release")
    (release.folder / f"{release.task}.py").write_text("value = 1\nraise KeyError('settings')\n")
    message = refused(release.file, out, capsys)
    assert "KeyError: 'settings'" in message
    assert f"{release.task}.py:2" in message


def test_a_module_with_a_syntax_error_is_refused_with_its_line(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_release(tmp_path / "release")
    (release.folder / f"{release.task}.py").write_text("value = 1\nvalue = = 2\n")
    message = refused(release.file, out, capsys)
    assert "SyntaxError" in message
    assert f"{release.task}.py:2" in message


def test_a_module_that_exits_on_import_is_no_success(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_release(tmp_path / "release", code="\nsys.exit(0)\n".replace("sys.", "__import__('sys')."))
    assert "cannot be imported" in refused(release.file, out, capsys)


def test_an_output_folder_below_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = write_release(tmp_path / "release")
    (tmp_path / "file").write_text("a file")
    code = run_command("export", release.file, "--out", tmp_path / "file" / "out")
    error = capsys.readouterr().err
    assert code == 2
    assert "the output folder is not writable" in error
    assert "choose another --out" in error
    assert "Traceback" not in error
    assert (tmp_path / "file").read_text() == "a file"


def test_bad_input_leaves_no_new_output_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = write_release(tmp_path / "release")
    release.edit("weights.safetensors", "nowhere.safetensors")
    assert run_command("export", release.file, "--out", tmp_path / "new") == 2
    capsys.readouterr()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("target", ["coreml", "onnx", "openvino", "tflite"])
def test_a_missing_runtime_is_refused_with_its_pip_extra(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TargetError, match=rf"pip install 'edgewright\[{target}\]'") as caught:
        require_runtime(get_target(target))
    assert f"missing: {', '.join(get_target(target).modules)}" in str(caught.value)


def test_an_export_without_the_runtime_stops_before_the_work(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    message = refused(write_release(tmp_path / "release").file, out, capsys)
    assert "missing: onnxruntime" in message
    assert "pip install 'edgewright[onnx]'" in message


def test_the_command_itself_refuses_without_a_traceback(tmp_path: Path, out: Path) -> None:
    """As a user meets it: a process of its own, a blocked runtime, exit code 2."""
    release = write_release(tmp_path / "release")
    block = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, p=None: None if n == 'onnx' else f(n)"
    code = f"{block}; from edgewright.pipeline.cli import main; main()"
    before = contents(out)
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(release.file), "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("edgewright: deliver.0: the target onnx needs packages that are not installed")
    assert "Traceback" not in done.stdout + done.stderr
    assert contents(out) == before


def test_the_name_of_a_release_is_its_folders_by_default(tmp_path: Path) -> None:
    release = write_release(tmp_path / "my-model")
    release.edit('name = "tiny"\n', "")
    assert read_release(release.file).name == "my-model"


def test_files_are_found_beside_the_release_file(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release")
    located = locate_files(read_release(release.file), [tmp_path, release.folder])
    assert located.model.checkpoint == str(release.folder / "weights.safetensors")
    assert located.model.source == f"{release.task}:build", "a callable is no file"


def test_statistics_are_made_beside_the_release_file_and_found_where_they_are(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release")
    release.edit("samples = 32", 'samples = 32\nstatistics = "kept.safetensors"')

    def located() -> str | None:
        section = locate_files(read_release(release.file), [tmp_path, release.folder]).calibration
        assert section is not None
        return section.statistics

    assert located() == str(release.folder / "kept.safetensors")
    (tmp_path / "kept.safetensors").touch()
    assert located() == str(tmp_path / "kept.safetensors")


@pytest.mark.parametrize(
    ("preprocess", "dtype", "expected"),
    [
        ('{ layout = "NCHW", mean = [0.3], std = [0.3] }', "float32", (-1.0, 7 / 3)),
        ('{ layout = "NHWC", mean = [0.5, 0.4], std = [0.5, 0.2] }', "float32", (-2.0, 3.0)),
        ('{ layout = "NCHW", mean = [127.5], std = [127.5] }', "float32", (-1.0, 1.0)),
        ('{ layout = "NCHW", std = [255.0] }', "float32", (0.0, 1.0)),
        ('{ layout = "NCHW" }', "float32", None),
        ('{ layout = "NCL", mean = [0.5], std = [0.5] }', "float32", None),
        ('{ layout = "NCHW" }', "uint8", (0.0, 255.0)),
    ],
)
def test_the_preprocessing_of_an_image_declares_a_range(
    preprocess: str, dtype: str, expected: tuple[float, float] | None, tmp_path: Path
) -> None:
    release = write_release(tmp_path / "release")
    release.edit('shape = ["batch", 16]', f'shape = ["batch", 16]\ndtype = "{dtype}"\npreprocess = {preprocess}')
    (port,) = read_release(release.file).model.inputs
    assert port.declared_range == (None if expected is None else pytest.approx(expected))


def test_a_pt2_source_takes_no_parts_and_no_checkpoint(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release")
    release.edit(f"{release.task}:build", "model.pt2")
    with pytest.raises(ReleaseError, match=r"a \.pt2 file holds its weights"):
        read_release(release.file)
