"""Calibration data: every way to give it, and every way to give it wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from edgewright.calibration.batches import digest_of, load_samples, to_tensors
from edgewright.errors import CalibrationError, ReleaseError
from tests.small_release import own_imports, run_command, write_release


@dataclass(frozen=True)
class Port:
    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"


X = Port("x", ("batch", 3))


@pytest.fixture(autouse=True)
def users_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with own_imports():
        yield


def user_module(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    """A module with a callable `data`; its name for a release file."""
    name = f"tiny_task_{folder.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(f"import numpy as np\n\n\ndef data():\n    {body}\n")
    monkeypatch.syspath_prepend(folder)
    return f"{name}:data"


def load(source: object, *ports: Port, samples: int = 8) -> list[dict[str, np.ndarray]]:
    return load_samples(str(source), ports or (X,), samples, "calibration.data")


def test_a_callable_gives_samples_of_one_and_no_more_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = user_module(tmp_path, monkeypatch, "return [{'x': np.ones((5, 3), np.float32)}] * 2")
    found = load(source, samples=7)
    assert [sample["x"].shape for sample in found] == [(1, 3)] * 7


def test_stacked_files_are_cut_along_the_batch(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(tmp_path / "data.npz", x=array)
    save_file({"x": array}, str(tmp_path / "data.safetensors"))
    for name in ("data.npz", "data.safetensors"):
        found = load(tmp_path / name)
        np.testing.assert_array_equal(np.concatenate([sample["x"] for sample in found]), array)


def test_an_input_without_a_batch_goes_with_every_sample(tmp_path: Path) -> None:
    table = np.arange(4, dtype=np.int64)
    np.savez(tmp_path / "data.npz", x=np.ones((3, 3), np.float32), table=table)
    found = load(tmp_path / "data.npz", X, Port("table", (4,), "int64"))
    assert len(found) == 3
    assert all(np.array_equal(sample["table"], table) for sample in found)


def test_a_folder_of_arrays_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        np.save(tmp_path / f"{number}.npy", np.full(3, number, np.float32))
    assert [float(sample["x"][0, 0]) for sample in load(tmp_path)] == [0, 1, 2]


def test_a_folder_of_images_is_normalized_as_declared(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image.new("L", (4, 4), 255).save(tmp_path / "white.png")
    (sample,) = load(tmp_path, Port("image", ("batch", 1, 4, 4)))
    np.testing.assert_array_equal(sample["image"], np.ones((1, 1, 4, 4), np.float32))


def test_narrower_and_wider_numbers_become_the_inputs_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = user_module(tmp_path, monkeypatch, "return [{'x': np.ones((1, 3)), 'n': np.ones(1, np.int32)}]")
    (sample,) = load(source, X, Port("n", (1,), "int64"))
    assert (sample["x"].dtype, sample["n"].dtype) == (np.float32, np.int64)


def test_the_digest_tells_order_names_and_values_apart() -> None:
    one, two = {"x": np.zeros(2, np.float32)}, {"x": np.ones(2, np.float32)}
    digests = {
        digest_of(samples) for samples in ([one, two], [two, one], [one], [{"y": one["x"]}], [{"x": np.zeros(2)}])
    }
    assert len(digests) == 5
    assert digest_of([one, two]) == digest_of([dict(one), dict(two)])


def test_samples_become_tensors_of_the_same_values() -> None:
    (tensors,) = to_tensors([{"x": np.arange(6.0, dtype=np.float32).reshape(2, 3).T}])
    assert torch.equal(tensors["x"], torch.arange(6.0).reshape(2, 3).T)


BAD = {
    "nothing": ("return []", "the data source yields nothing"),
    "empty batches": ("return [{'x': np.ones((0, 3), np.float32)}]", "the data source yields nothing"),
    "a generator that ends": ("yield from ()", "the data source yields nothing"),
    "wrong names": ("return [{'X': np.ones((1, 3), np.float32)}]", "expected: x"),
    "a name too many": ("return [{'x': np.ones((1, 3), np.float32), 'y': 1}]", "got: x, y"),
    "no dicts": ("return [np.ones((1, 3), np.float32)]", "got: ndarray"),
    "wrong shape": ("return [{'x': np.ones((1, 4), np.float32)}]", "got: [1, 4]\n  expected: ['batch', 3]"),
    "wrong rank": ("return [{'x': np.ones(3, np.float32)}]", "got: [3]\n  expected: ['batch', 3]"),
    "NaN": ("return [{'x': np.array([[0, np.nan, 0]], np.float32)}]", "NaN or infinite values\n  got: first at [0, 1]"),
    "infinity": ("return [{'x': np.array([[0, 0, -np.inf]], np.float32)}]", "first at [0, 2]"),
    "wrong dtype": ("return [{'x': np.ones((1, 3), np.int64)}]", "wrong dtype\n  got: int64\n  expected: float32"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_with_its_place(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, message = BAD[case]
    source = user_module(tmp_path, monkeypatch, body)
    with pytest.raises(CalibrationError) as caught:
        load(source)
    assert message in str(caught.value)
    assert "where: calibration.data" in str(caught.value)


def test_the_first_bad_item_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = "{'x': np.ones((1, 3), np.float32)}", "{'x': np.ones((1, 2), np.float32)}"
    source = user_module(tmp_path, monkeypatch, f"return [{good}, {good}, {bad}]")
    with pytest.raises(CalibrationError, match=r"calibration.data, item 2, input 'x'"):
        load(source)


def test_integers_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = user_module(tmp_path, monkeypatch, "return [{'n': np.array([3, 300])}]")
    with pytest.raises(CalibrationError, match="values that uint8 cannot hold\n  got: 3 to 300"):
        load(source, Port("n", (2,), "uint8"))


def test_inputs_with_different_numbers_of_samples_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((3, 3), np.float32), y=np.ones((2, 3), np.float32))
    with pytest.raises(CalibrationError, match=r"different numbers of samples\n  got: \{'x': 3, 'y': 2\}"):
        load(tmp_path / "data.npz", X, Port("y", ("batch", 3)))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"data{suffix}"
    array = np.ones((64, 3), np.float32)
    if suffix == ".npz":
        np.savez(file, x=array)
    else:
        save_file({"x": array}, str(file))
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(CalibrationError, match="the data file cannot be read") as caught:
        load(file)
    assert str(file) in str(caught.value)


def test_pickled_arrays_are_refused_unread(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(marker), "w")  # type: ignore[return-value]

    np.savez(tmp_path / "data.npz", x=np.array([Payload()], dtype=object))
    with pytest.raises(CalibrationError, match="the data file cannot be read"):
        load(tmp_path / "data.npz")
    assert not marker.exists()


def test_a_folder_cannot_feed_two_inputs(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="a folder can feed a model with one input"):
        load(tmp_path, X, Port("y", (1,)))


def test_a_damaged_array_in_a_folder_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", np.ones(3, np.float32))
    (tmp_path / "1.npy").write_bytes((tmp_path / "0.npy").read_bytes()[:-4])
    with pytest.raises(CalibrationError, match=r"1\.npy"):
        load(tmp_path)


def test_a_source_that_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no such data source"):
        load(tmp_path / "nowhere.npz")


def test_a_callable_that_raises_is_told_with_the_users_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is the user's, though NumPy raised."""
    source = user_module(tmp_path, monkeypatch, "return np.load('/nowhere/data.npy')")
    with pytest.raises(ReleaseError) as caught:
        load(source)
    message = str(caught.value)
    assert "FileNotFoundError" in message
    assert f"{source.partition(':')[0]}.py:5, in data: return np.load('/nowhere/data.npy')" in message


def test_a_callable_that_exits_is_an_error_and_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = write_release(tmp_path / "release", code="\n\ndef leave():\n    sys.exit(0)\n")
    release.edit(":calibration", ":leave")
    assert run_command("export", release.file, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "SystemExit: 0" in error
    assert f"{release.task}.py" in error


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return []", "the data source yields nothing"),
        ("return [{'y': 1}]", "the data has other names than the model's inputs"),
        ("raise ValueError('no data today')", "ValueError: no data today"),
    ],
)
def test_bad_data_ends_an_export_with_code_2_and_no_trace(
    body: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_release(tmp_path / "release", code=f"\n\ndef mine():\n    {body}\n")
    release.edit(":calibration", ":mine")
    assert run_command("export", release.file, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
