"""Quantization-aware training from a release file: its data, its loss, its checkpoint, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgewright.calibration.batches import load_samples
from edgewright.errors import CalibrationError
from edgewright.pipeline.release import InputSection, locate_files, read_release
from tests.small_release import deliver, result_of, run_command, write_release

pytest.importorskip("onnxruntime")

TRAINED = """
[[compress]]
pass = "quantize"
scheme = "w4a8"
training = true
steps = 60
batch_size = 4
learning_rate = 1.0
"""
PART = '[[model.parts]]\nname = "image"\nmodule = "image"\n'
CODE = """

def labelled():
    for row in _draw(24, 5):
        yield {"x": row[None], "wanted": np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)}


def loss(outputs, sample):
    return (outputs["logits"] - sample["wanted"]).square().mean()
"""


def section(**settings: str) -> str:
    return "[training]\n" + "".join(f'{key} = "{value}"\n' for key, value in settings.items())


def test_labels_a_loss_and_a_checkpoint_come_from_the_release_file(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", compress=TRAINED, code=CODE)
    training = section(data=f"{release.task}:labelled", loss=f"{release.task}:loss", checkpoint="state.safetensors")
    release.edit("[quality]", f"{training}\n[quality]")
    release.edit("max_drop = 5.0", "max_drop = 100.0")
    assert run_command("export", release.file, "--out", tmp_path / "out") == 0
    result = result_of(tmp_path / "out")
    (record,) = [entry for entry in result["recipe"] if entry["name"] == "train-quantized"]
    assert (record["settings"]["steps"], record["settings"]["weight_bits"]) == (60, 4)
    (delivery,) = result["deliveries"]
    assert delivery["metric"]["original"] > -1.0
    assert delivery["metric"]["compressed"] == pytest.approx(-7.5, abs=1.5), "the mean square of the labels"
    made = (release.folder / "state.safetensors").stat().st_mtime_ns
    assert run_command("export", release.file, "--out", tmp_path / "again") == 0
    assert (release.folder / "state.safetensors").stat().st_mtime_ns == made, "no step was left"
    assert result_of(tmp_path / "again")["deliveries"][0]["size_bytes"] == delivery["size_bytes"]


def test_a_part_learns_from_what_it_gives_itself(tmp_path: Path) -> None:
    deliveries = deliver(part="image")
    release = write_release(tmp_path / "release", compress=TRAINED, parts=PART, deliveries=deliveries, code=CODE)
    training = section(data=f"{release.task}:labelled", checkpoint="state.safetensors")
    release.edit("[quality]", f"{training}\n[quality]")
    assert run_command("export", release.file, "--out", tmp_path / "out") == 0
    assert (release.folder / "state-image.safetensors").exists()


def test_training_that_nothing_uses_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = write_release(tmp_path / "release", code=CODE)
    release.edit("[quality]", section(data=f"{release.task}:labelled") + "[quality]")
    assert run_command("export", release.file, "--out", tmp_path / "out") == 2
    assert "the release has [training], but no step trains" in capsys.readouterr().err


def test_a_loss_for_a_part_and_one_that_is_missing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_release(
        tmp_path / "release", compress=TRAINED, parts=PART, deliveries=deliver(part="image"), code=CODE
    )
    release.edit("[quality]", section(data=f"{release.task}:labelled", loss=f"{release.task}:los") + "[quality]")
    assert run_command("export", release.file, "--out", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "a loss sees the outputs of the whole model" in message
    assert "did you mean 'loss'?" in message


def test_a_checkpoint_is_found_or_made_beside_the_release_file(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", compress=TRAINED)
    release.edit("[quality]", section(checkpoint="state.safetensors") + "[quality]")
    located = locate_files(read_release(release.file), (tmp_path, release.folder)).training
    assert located is not None
    assert located.checkpoint == str(release.folder / "state.safetensors")
    assert located.data is None


PORTS = (InputSection(name="x", shape=("batch", 2)),)


def source(tmp_path: Path, **arrays: object) -> str:
    file = tmp_path / "data.npz"
    np.savez(file, **{name: np.asarray(value) for name, value in arrays.items()})
    return str(file)


def test_labels_are_cut_with_the_inputs_where_they_are_as_long(tmp_path: Path) -> None:
    data = source(tmp_path, x=np.zeros((3, 2), np.float32), label=[4, 5, 6], classes=[1.0, 2.0])
    samples = load_samples(data, PORTS, 8, "training.data", more=True)
    assert [sample["label"].tolist() for sample in samples] == [[4], [5], [6]]
    assert [sample["classes"].tolist() for sample in samples] == [[1.0, 2.0]] * 3
    assert {sample["x"].shape for sample in samples} == {(1, 2)}


def test_training_data_without_the_inputs_is_refused(tmp_path: Path) -> None:
    data = source(tmp_path, y=np.zeros((3, 2), np.float32))
    with pytest.raises(CalibrationError, match="other names than the model's inputs") as caught:
        load_samples(data, PORTS, 8, "training.data", more=True)
    assert "training.data" in str(caught.value)
