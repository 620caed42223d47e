"""Saved calibration statistics: another observer needs no run, and a file of anything else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch.fx import GraphModule

from edgewright.calibration import keyed_file
from edgewright.calibration.observers import OBSERVERS
from edgewright.calibration.statistics import StatisticsFile, ValueStatistics
from edgewright.errors import CalibrationError
from edgewright.pipeline.compress import compress
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.quantize_static import QuantizeStatic
from edgewright.pipeline.passes.runner import Compressed, run_passes
from edgewright.pipeline.subject import Subject
from tests.small_models import SMALL, Batch, folded


def quantize(name: str, batches: list[Batch], file: Path | None = None, **settings: Any) -> Compressed:
    return run_passes(folded(name), [QuantizeStatic(**settings)], Context(batches, statistics=file))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each batch that is shown to the observers."""
    from edgewright.pipeline.passes import observe_values

    found: list[str] = []
    own = observe_values.watch_values

    def counted(prepared: GraphModule) -> Any:
        observers = own(prepared)

        def count(module: GraphModule, args: Any) -> None:
            if observers[0].rounding is None:
                found.append("run")

        prepared.register_forward_pre_hook(count)
        return observers

    monkeypatch.setattr(observe_values, "watch_values", counted)
    return found


@pytest.mark.parametrize("name", ["cnn", "encoder"])
def test_every_observer_gives_from_the_file_what_it_gives_from_the_data(
    name: str, tmp_path: Path, runs: list[str]
) -> None:
    batches, file = SMALL[name].batches(4), tmp_path / "kept.safetensors"
    quantize(name, batches, file)
    assert file.is_file()
    assert len(runs) == 4
    for observer in OBSERVERS:
        before = len(runs)
        reused = quantize(name, batches, file, observer=observer)
        assert len(runs) == before, "no run over the data"
        fresh = quantize(name, batches, observer=observer)
        assert reused.program.digest() == fresh.program.digest()
        assert reused.reports[0].report == fresh.reports[0].report


def test_a_file_that_lacks_values_is_made_again_with_all_of_them(tmp_path: Path, runs: list[str]) -> None:
    batches, file = SMALL["cnn"].batches(2), tmp_path / "kept.safetensors"
    quantize("cnn", batches, file, modules="residual.*")
    whole = quantize("cnn", batches, file)
    assert len(runs) == 4
    assert whole.program.digest() == quantize("cnn", batches).program.digest()
    before = len(runs)
    quantize("cnn", batches, file), quantize("cnn", batches, file, modules="residual.*")
    assert len(runs) == before


def test_the_file_does_not_grow_with_samples(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 6):
        file = tmp_path / f"{count}.safetensors"
        quantize("mlp", SMALL["mlp"].batches(count), file)
        sizes.append(file.stat().st_size)
    assert sizes[0] == sizes[1]


def test_a_file_of_other_data_is_refused_with_both_digests(tmp_path: Path) -> None:
    file = tmp_path / "kept.safetensors"
    quantize("mlp", SMALL["mlp"].batches(2), file)
    before = file.read_bytes()
    with pytest.raises(CalibrationError, match="are of other calibration data") as caught:
        quantize("mlp", SMALL["mlp"].batches(3), file)
    with safe_open(str(file), framework="pt") as content:
        assert f"got: {content.metadata()['data']}" in str(caught.value)
    for part in ("expected: ", f"where: {file}", "what to do: delete the file"):
        assert part in str(caught.value)
    assert file.read_bytes() == before


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    batches, file = SMALL["mlp"].batches(2), tmp_path / "kept.safetensors"
    quantize("mlp", batches, file)
    other = folded("mlp").clone()
    for node, tensor in list(other.constants()):
        if tensor.dim() == 2:
            other.module.register_buffer("changed", tensor * 2)
            node.target = "changed"
            break
    with pytest.raises(CalibrationError, match="are of another program"):
        run_passes(other, [QuantizeStatic()], Context(batches, statistics=file))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "kept.safetensors"
    file.write_bytes(b"no tensors")
    with pytest.raises(CalibrationError, match="cannot be read"):
        quantize("mlp", SMALL["mlp"].batches(1), file)


def test_a_missing_folder_is_refused_before_the_run(tmp_path: Path, runs: list[str]) -> None:
    with pytest.raises(CalibrationError, match="there is no such folder"):
        quantize("mlp", SMALL["mlp"].batches(1), tmp_path / "nowhere" / "kept.safetensors")
    assert not runs


def test_a_write_that_fails_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StatisticsFile(tmp_path / "kept.safetensors", "program", "data")
    found = ValueStatistics([])
    found.update(torch.ones(3))
    file.write({"x": found.state()})
    before = file.path.read_bytes()

    def full(source: object, place: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keyed_file.os, "replace", full)
    with pytest.raises(CalibrationError, match="cannot be saved"):
        file.write({"y": found.state()})
    assert file.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept.safetensors"]


def test_a_part_of_a_model_has_a_file_of_its_own_and_no_declared_ranges(tmp_path: Path) -> None:
    samples = [{"x": batch["x"].numpy()} for batch in SMALL["mlp"].batches(2)]
    subject = Subject("head", folded("mlp"), samples, samples)
    subject.compress([QuantizeStatic()], 0, lambda stage: None, tmp_path / "kept.safetensors", {"x": (-99.0, 99.0)})
    assert [path.name for path in tmp_path.iterdir()] == ["kept-head.safetensors"]
    assert "x" not in {caution.node for caution in subject.reports[0].report.warnings}


def test_the_public_compress_keeps_and_reuses_a_file(tmp_path: Path, runs: list[str]) -> None:
    batches, file = SMALL["mlp"].batches(3), tmp_path / "kept.safetensors"
    recipe = [{"pass": "quantize", "scheme": "w8a8"}]
    first = compress(folded("mlp"), recipe, batches=batches, statistics=str(file))
    again = compress(folded("mlp"), recipe, batches=batches, statistics=file)
    assert len(runs) == 3
    assert first.program.digest() == again.program.digest()
