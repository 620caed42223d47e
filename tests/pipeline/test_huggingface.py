"""Hugging Face folders: loaded without their code and without pickles, captured, and lowered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import edgewright as ew
from edgewright.errors import CaptureError, CheckpointError, EdgewrightError
from edgewright.pipeline.huggingface import load_folder
from tests.small_release import is_installed

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TOKENS = {"input_ids": torch.arange(1, 9)[None], "attention_mask": torch.tensor([[1] * 6 + [0] * 2])}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "bert"))


def edit_config(folder: Path, **entries: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.slow
def test_a_folder_is_captured_and_lowered_to_onnx(saved: Path, tmp_path: Path) -> None:
    program = ew.capture(saved, TOKENS)
    assert [spec.name for spec in program.inputs] == ["input_ids", "attention_mask"]
    assert {spec.name: spec.shape for spec in program.outputs} == {
        "last_hidden_state": (1, 8, 32),
        "pooler_output": (1, 32),
    }
    model = transformers.BertModel.from_pretrained(saved).eval()
    with torch.no_grad():
        wanted = model(**TOKENS).last_hidden_state
    torch.testing.assert_close(program.run(TOKENS)["last_hidden_state"], wanted, atol=1e-5, rtol=1e-5)
    if not is_installed("onnx"):
        pytest.skip("the runtime of onnx is not installed")
    prepared = ew.compress(program, []).program
    artifact = ew.lower(prepared, target="onnx", folder=tmp_path)
    verdict = ew.validate(artifact, reference=prepared, batches=[TOKENS])
    assert verdict.passed
    assert set(verdict.outputs) == {"last_hidden_state", "pooler_output"}


def refused(folder: Path, kind: type[EdgewrightError]) -> str:
    with pytest.raises(kind) as caught:
        load_folder(folder)
    return str(caught.value)


def test_a_folder_that_maps_to_code_of_its_own_is_refused(folder: Path) -> None:
    edit_config(folder, auto_map={"AutoModel": "modeling_mine.Mine"})
    message = refused(folder, CaptureError)
    assert "asks for code of its own" in message
    assert "auto_map" in message


def test_a_folder_with_python_in_it_is_refused_unread(folder: Path) -> None:
    marker = folder / "marker"
    (folder / "modeling_bert.py").write_text(f"open({str(marker)!r}, 'w')")
    assert "got: modeling_bert.py" in refused(folder, CaptureError)
    assert not marker.exists()


def test_missing_and_unexpected_weights_are_refused_by_name(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    taken = sorted(state)[0]
    state["mine.weight"] = state.pop(taken)
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
    message = refused(folder, CheckpointError)
    assert f"missing_keys: {taken}" in message
    assert "unexpected_keys: mine.weight" in message


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    edit_config(folder, vocab_size=41)
    assert "word_embeddings" in refused(folder, CheckpointError)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no .safetensors file" in refused(folder, CheckpointError)


def test_a_folder_with_pickled_weights_alone_is_refused_unread(folder: Path) -> None:
    marker = folder / "marker"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(marker), "w")

    (folder / "model.safetensors").unlink()
    torch.save({"embeddings": Payload()}, folder / "pytorch_model.bin")
    assert "no .safetensors file" in refused(folder, CheckpointError)
    assert not marker.exists()


def test_damaged_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    assert "the folder cannot be loaded" in refused(folder, CheckpointError)


@pytest.mark.parametrize("name", ["BurtModel", "pipeline", "AutoModel", "BertConfig", "__version__"])
def test_an_architecture_that_transformers_lacks_is_refused(name: str, folder: Path) -> None:
    edit_config(folder, architectures=[name])
    message = refused(folder, CaptureError)
    assert "no such architecture" in message
    assert name in message


@pytest.mark.parametrize("content", ["{", "[]", "3"])
def test_a_config_that_is_no_json_object_is_refused(content: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json" in refused(folder, CaptureError)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        assert "not a model that edgewright can load" in refused(path, CaptureError)
