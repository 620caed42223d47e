"""The surface that users script against: capture, compress, lower, validate, open, export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import edgewright as ew
from edgewright.errors import CalibrationError, DeviceError, TargetError
from tests.small_models import SMALL, Batch
from tests.small_release import ALL_TARGETS, is_installed

RECIPE = [{"pass": "quantize", "scheme": "w8a8"}]


def batches(count: int = 8, *, as_tuples: bool = False) -> list[Batch] | list[tuple[Tensor, ...]]:
    found = SMALL["two_inputs"].batches(count)
    return [(batch["features"], batch["kind"]) for batch in found] if as_tuples else found


@pytest.fixture(scope="module")
def program() -> ew.Program:
    return ew.capture(SMALL["two_inputs"].build(), batches(1)[0])


def test_importing_edgewright_imports_nothing_heavy() -> None:
    code = (
        "import sys, edgewright; assert len(edgewright.__all__) > 8; "
        "print(sorted({'torch', 'torchao', 'numpy', 'onnx', 'pydantic', 'typer'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(ew, name) is not None for name in ew.__all__)
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        _ = ew.exprot


def test_capture_takes_a_tuple_or_a_dict_and_gives_the_same_program(program: ew.Program) -> None:
    other = ew.capture(SMALL["two_inputs"].build(), batches(1, as_tuples=True)[0])
    assert [(spec.name, spec.dtype) for spec in program.inputs] == [("features", "float32"), ("kind", "int64")]
    assert [spec.name for spec in program.outputs] == ["score", "best"]
    assert other.digest() == program.digest()


def test_compress_takes_tuples_or_dicts_and_a_list_or_a_file(program: ew.Program, tmp_path: Path) -> None:
    before = program.digest()
    (tmp_path / "recipe.toml").write_text('[[compress]]\npass = "quantize"\nscheme = "w8a8"\n')
    by_dicts = ew.compress(program, RECIPE, batches=batches(), seed=0)
    by_tuples = ew.compress(program, tmp_path / "recipe.toml", batches=batches(as_tuples=True))
    assert by_dicts.program.digest() == by_tuples.program.digest() != before
    assert program.digest() == before
    assert any(ran.report.rewrites for ran in by_dicts.reports)


def test_an_empty_recipe_means_float32(program: ew.Program) -> None:
    assert set(ew.compress(program, []).program.weight_bytes()) <= {"float32", "int64"}


BAD_BATCHES = {
    "a tuple too short": lambda: [(torch.zeros(1, 48),)],
    "a tuple too long": lambda: [(torch.zeros(1, 48), torch.zeros(1, dtype=torch.int64), torch.zeros(1))],
    "other names": lambda: [{"features": torch.zeros(1, 48), "kin": torch.zeros(1, dtype=torch.int64)}],
    "another shape": lambda: [(torch.zeros(2, 48), torch.zeros(1, dtype=torch.int64))],
    "another dtype": lambda: [(torch.zeros(1, 48), torch.zeros(1))],
    "NaN": lambda: [(torch.full((1, 48), torch.nan), torch.zeros(1, dtype=torch.int64))],
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_bad_batches_are_refused(case: str, program: ew.Program) -> None:
    with pytest.raises(CalibrationError, match="a batch"):
        ew.compress(program, RECIPE, batches=BAD_BATCHES[case]())


@pytest.mark.slow
@pytest.mark.parametrize("target", ALL_TARGETS)
def test_from_model_to_running_file(target: str, program: ew.Program, tmp_path: Path) -> None:
    if not is_installed(target):
        pytest.skip(f"the runtime of {target} is not installed")
    result = ew.compress(program, RECIPE, batches=batches(64))
    artifact = ew.lower(result.program, target=target, folder=tmp_path / "new" / "folder", device=ALL_TARGETS[target])
    assert isinstance(artifact, ew.Artifact)
    assert artifact.target == target
    assert artifact.main.exists()
    assert sum(path.stat().st_size for path in artifact.files) == artifact.size_bytes
    held_out = [dict(batch) for batch in SMALL["two_inputs"].batches(4, seed=9)]
    verdict = ew.validate(artifact, reference=result.program, batches=held_out, original=program)
    assert verdict.passed, verdict
    assert set(verdict.outputs) == {"score", "best"}
    assert verdict.outputs["score"].sqnr_db > 30
    tuples = [(batch["features"], batch["kind"]) for batch in held_out]
    assert ew.validate(artifact, reference=result.program, batches=tuples).outputs == verdict.outputs
    with ew.open(artifact, threads=1) as session:
        found = session.run({name: tensor.numpy() for name, tensor in held_out[0].items()})
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "score": ((1, 6), "float32"),
        "best": ((1,), "int64"),
    }
    other = ew.validate(artifact, reference=program, batches=[(features + 1, kind) for features, kind in tuples])
    assert other.outputs["score"].max_difference > 0
    wrong = ew.compress(ew.capture(scaled(2.0), batches(1)[0]), []).program
    assert not ew.validate(artifact, reference=wrong, batches=held_out).passed


def scaled(factor: float) -> torch.nn.Module:
    model = SMALL["two_inputs"].build()
    with torch.no_grad():
        model.score.weight.mul_(factor)
    return model


@pytest.mark.parametrize("case", ["a tuple too short", "other names", "another shape"])
def test_validate_refuses_bad_batches(case: str, program: ew.Program) -> None:
    artifact = ew.Artifact("onnx", Path("nowhere.onnx"), ())
    with pytest.raises(CalibrationError, match="a batch"):
        ew.validate(artifact, reference=program, batches=BAD_BATCHES[case]())


def test_validate_needs_a_batch(program: ew.Program) -> None:
    with pytest.raises(CalibrationError, match="at least one batch"):
        ew.validate(ew.Artifact("onnx", Path("nowhere.onnx"), ()), reference=program, batches=[])


def test_lower_refuses_unknown_targets_and_devices_and_writes_nothing(program: ew.Program, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="did you mean 'tflite'"):
        ew.lower(program, target="tflight", folder=tmp_path / "out")
    with pytest.raises(DeviceError, match="did you mean 'pixel-8'"):
        ew.lower(program, target="onnx", folder=tmp_path / "out", device="pixel-9")
    with pytest.raises(DeviceError, match="coreml"):
        ew.lower(program, target="coreml", folder=tmp_path / "out", device="pixel-8")
    assert not (tmp_path / "out").exists()


def test_arrays_are_as_good_as_tensors(program: ew.Program) -> None:
    arrays = [{name: np.asarray(tensor) for name, tensor in batch.items()} for batch in batches()]
    one = ew.compress(program, RECIPE, batches=arrays).program
    assert one.digest() == ew.compress(program, RECIPE, batches=batches()).program.digest()
