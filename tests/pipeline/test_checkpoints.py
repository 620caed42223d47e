"""Checkpoints: loaded strictly, told in one message what does not fit, and never executed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgewright.errors import CheckpointError
from edgewright.pipeline.sources import load_checkpoint
from tests.small_release import contents, delivery_of, reference_model, run_command, write_release


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def write(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state) -> Path:
    state = change(net().state_dict())
    if path.suffix == ".safetensors":
        save_file(state, str(path))
    else:
        torch.save(state, path)
    return path


def refusal(path: Path) -> str:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(caught.value)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights.pth"])
def test_a_fitting_checkpoint_gives_its_values(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, lambda state: {key: tensor + 1 for key, tensor in state.items()})
    model = net()
    load_checkpoint(model, path)
    wanted = {key: tensor + 1 for key, tensor in net().state_dict().items()}
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in model.state_dict().items())


def test_missing_unexpected_and_misshapen_keys_are_told_together(tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        state["head.bias"] = state.pop("2.bias")
        state["0.weight"] = torch.zeros(5, 3)
        return state

    message = refusal(write(tmp_path / "weights.safetensors", change))
    assert "missing: 2.bias" in message
    assert "unexpected: head.bias" in message
    assert "other shape: 0.weight: checkpoint (5, 3), model (4, 3)" in message
    assert "weights.safetensors" in message


def test_a_missing_buffer_counts(tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in state.items() if key != "1.running_var"}

    assert "missing: 1.running_var" in refusal(write(tmp_path / "weights.pt", change))


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod."])
def test_a_wrappers_prefix_is_recognized(prefix: str, tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pt", lambda state: {prefix + key: tensor for key, tensor in state.items()})
    assert f"every key carries the prefix {prefix!r}" in refusal(path)


def test_without_a_common_prefix_no_prefix_is_blamed(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pt", lambda state: {"other." + key: tensor for key, tensor in state.items()})
    assert "carries the prefix" not in refusal(path)


def test_a_checkpoint_of_a_whole_training_run_is_told_where_the_weights_are(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": net().state_dict()}, tmp_path / "last.pt")
    message = refusal(tmp_path / "last.pt")
    assert "no plain dict of tensors" in message
    assert "'state_dict'" in message


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_a_truncated_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-40])
    message = refusal(path)
    assert "the checkpoint cannot be read" in message
    assert name in message


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_a_file_that_is_no_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"these are no weights, whatever the name says")
    assert "the checkpoint cannot be read" in refusal(tmp_path / name)


class Payload:
    """What unpickles to a call: it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("form", ["torch.save", "pickle"])
def test_pickled_code_is_refused_and_never_runs(form: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pt"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Payload(marker)))
    else:
        torch.save({"0.weight": Payload(marker)}, path)
    message = refusal(path)
    assert "the checkpoint cannot be read" in message
    assert ".safetensors" in message
    assert not marker.exists()


def test_a_checkpoint_that_does_not_fit_ends_an_export_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_release(tmp_path / "release")
    state = {f"module.{key}": tensor for key, tensor in net().state_dict().items()}
    save_file(state, str(release.folder / "weights.safetensors"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "release.json").write_text("{}")
    before = contents(out)
    assert run_command("export", release.file, "--out", out) == 2
    error = capsys.readouterr().err
    assert "the checkpoint does not fit the model" in error
    assert "Traceback" not in error
    assert contents(out) == before


def test_weights_that_are_not_finite_end_an_export_with_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    release = write_release(tmp_path / "release")
    state = load_file(release.folder / "weights.safetensors")
    state["head.weight"][1, 2] = float("nan")
    save_file(state, str(release.folder / "weights.safetensors"))
    assert run_command("export", release.file, "--out", tmp_path / "out") == 2
    assert "head.weight has 1 (first at [1, 2])" in capsys.readouterr().err


def test_a_pt2_file_needs_to_be_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = write_release(tmp_path / "release")
    release.edit(f"{release.task}:build", "model.pt2")
    release.edit('checkpoint = "weights.safetensors"\n', "")
    torch.export.save(torch.export.export(nn.Linear(16, 4), (torch.zeros(1, 16),)), release.folder / "model.pt2")
    for options in ([], ["--trust-input", "sha256:" + "0" * 64]):
        assert run_command("export", release.file, "--out", tmp_path / "out", *options) == 2
        error = capsys.readouterr().err
        assert "refused: model.pt2 is a .pt2 file, and loading one can execute code" in error
        assert "--trust-input sha256:" in error
        assert not (tmp_path / "out").exists()


def test_a_trusted_pt2_file_with_other_inputs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib

    release = write_release(tmp_path / "release")
    release.edit(f"{release.task}:build", "model.pt2")
    release.edit('checkpoint = "weights.safetensors"\n', "")
    file = release.folder / "model.pt2"
    torch.export.save(torch.export.export(nn.Linear(16, 4), (torch.zeros(1, 16),)), file)
    trust = hashlib.sha256(file.read_bytes()).hexdigest()
    assert run_command("export", release.file, "--out", tmp_path / "out", "--trust-input", trust) == 2
    error = capsys.readouterr().err
    assert "the .pt2 file has other inputs than the release declares" in error
    assert "'input'" in error
    assert "'x'" in error


@pytest.mark.slow
def test_a_trusted_pt2_file_is_delivered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib

    release = write_release(tmp_path / "release")
    release.edit(f"{release.task}:build", "model.pt2")
    release.edit('checkpoint = "weights.safetensors"\n', "")
    file = release.folder / "model.pt2"
    exported = torch.export.export(reference_model(release.folder, release.task), (), {"x": torch.zeros(1, 16)})
    torch.export.save(exported, file)
    trust = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    assert run_command("export", release.file, "--out", tmp_path / "out", "--trust-input", trust) == 0
    capsys.readouterr()
    assert delivery_of(tmp_path / "out", "raspberry-pi-5-onnx")["status"] == "passed"


def test_data_dependent_control_flow_is_told_with_the_users_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = write_release(tmp_path / "release")
    release.edit(":build", ":build_branching")
    assert run_command("export", release.file, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "the model cannot be captured as one graph" in error
    assert f"{release.task}.py" in error
    assert "if x.sum() > 0:  # the user's own line" in error
    assert "torch.where" in error
    assert "Traceback" not in error


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.small = nn.Linear(4, 4).half()
        self.head.weight = self.embed.weight


def test_tied_weights_stay_tied_and_every_tensor_keeps_its_dtype(tmp_path: Path) -> None:
    state = {name: torch.full_like(tensor, 2.0, dtype=torch.float32) for name, tensor in Tied().state_dict().items()}
    save_file(state, str(tmp_path / "tied.safetensors"))
    model = Tied()
    load_checkpoint(model, tmp_path / "tied.safetensors")
    assert model.head.weight is model.embed.weight
    assert model.small.weight.dtype == torch.float16
    assert all(bool((tensor == 2).all()) for tensor in model.state_dict().values())


def test_weights_of_a_safetensors_file_take_private_memory_only_where_they_are_changed(tmp_path: Path) -> None:
    """Mapped, so that a model larger than the memory can be gone through layer by layer."""
    source = """
import sys
from pathlib import Path
import torch
from torch import nn
from edgewright.pipeline.sources import load_checkpoint

def private_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024

model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False, device="meta") for _ in range(4)))
model = model.to_empty(device="cpu")
before = private_mb()
load_checkpoint(model, Path(sys.argv[1]))
total = sum(float(layer.weight.detach().sum()) for layer in model)
assert total == 4 * 2048 * 2048, total
print(private_mb() - before)
"""
    save_file({f"{place}.weight": torch.ones(2048, 2048) for place in range(4)}, str(tmp_path / "large.safetensors"))
    command = [sys.executable, "-c", source, str(tmp_path / "large.safetensors")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 20, "of 64 MB"
