"""Palettes in Core ML's files, and their refusal everywhere else."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgewright as ew
from edgewright.errors import TargetError
from edgewright.pipeline.lowering import refuse_schemes
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.program import Program
from edgewright.targets import get_target, require_runtime, target_names
from edgewright.targets.coreml.weights import pack_bits
from tests.small_models import SMALL, captured
from tests.small_release import deliver, result_of, run_command, write_release

OTHERS = [name for name in target_names() if name != "coreml"]


@cache
def compressed(model: str, scheme: str, **settings: Any) -> Program:
    return ew.compress(captured(model), [{"pass": "quantize", "scheme": scheme, **settings}]).program


@pytest.fixture(autouse=True)
def needs_coreml() -> None:
    try:
        require_runtime(get_target("coreml"))
    except TargetError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("model", ["encoder", "cnn"])
@pytest.mark.parametrize(
    ("scheme", "settings", "minimum", "stated"),
    [
        ("p1", {}, "iOS==16", "16"),
        ("p2", {}, None, "17"),
        ("p3", {}, None, "18"),
        ("p4", {}, "iOS==16", "16"),
        ("p4", {}, "iOS==18", "18"),
        ("p4", {"group": 8}, None, "18"),
        ("p4", {"vector": 2}, None, "18"),
        ("p6", {"vector": 4, "group": 32}, None, "18"),
        ("p6", {}, None, "17"),
        ("p8", {}, None, "17"),
    ],
)
def test_the_file_stores_packed_indices_and_computes_the_graph(
    model: str, scheme: str, settings: dict[str, Any], minimum: str | None, stated: str, tmp_path: Path
) -> None:
    program = compressed(model, scheme, **settings)
    artifact = ew.lower(program, "coreml", tmp_path, minimum=minimum)
    found = get_target("coreml").inspect(artifact)
    assert found.minimum is not None and found.minimum["iOS"] == stated
    sizes = program.weight_bytes()
    assert sum(found.bytes_by_dtype.values()) <= sum(sizes.values()) + 500
    indices = sizes[f"uint{scheme[1:]}"]
    assert found.bytes_by_dtype[f"uint{scheme[1:]}"] == indices
    (batch,) = SMALL[model].batches(1, seed=5)
    with ew.open(artifact) as session:
        got = session.run({name: value.numpy() for name, value in batch.items()})
    for name, value in program.run(batch).items():
        assert sqnr_db(value.numpy(), got[name]) > 80, name


def test_float16_leaves_the_tables_alone(tmp_path: Path) -> None:
    recipe = [{"pass": "quantize", "scheme": "p4", "group": 4, "modules": "block*"}]
    program = ew.compress(captured("encoder"), [*recipe, {"pass": "quantize", "scheme": "fp16"}]).program
    assert {"uint4", "float16"} <= set(program.weight_bytes())
    artifact = ew.lower(program, "coreml", tmp_path)
    assert {"uint4", "float16"} <= set(get_target("coreml").inspect(artifact).bytes_by_dtype)
    (batch,) = SMALL["encoder"].batches(1, seed=5)
    with ew.open(artifact) as session:
        got = session.run({name: value.numpy() for name, value in batch.items()})
    for name, value in program.run(batch).items():
        assert sqnr_db(value.numpy(), got[name]) > 40, name


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [ew.lower(compressed("cnn", "p3"), "coreml", tmp_path / name).files for name in ("one", "two")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_bits_are_packed_least_significant_first() -> None:
    """The example of MIL's specification: 2 bits, five indices."""
    assert pack_bits(np.array([0, 3, 2, 1, 3], dtype=np.uint8), 2).tolist() == [0b01101100, 0b11]
    assert pack_bits(np.array([1, 2, 3], dtype=np.uint8), 8).tolist() == [1, 2, 3]
    assert pack_bits(np.array([[63], [1]], dtype=np.uint8), 6).tolist() == [0b01111111, 0]


@pytest.mark.parametrize(("scheme", "settings"), [("p3", {}), ("p4", {"group": 8}), ("p4", {"vector": 2})])
def test_an_older_ios_is_refused_the_newer_palettes(scheme: str, settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"came with iOS 18, macOS 15; name a newer runtime .* p1, p2, p4, p6, p8"):
        ew.lower(compressed("cnn", scheme, **settings), "coreml", tmp_path, minimum="iOS==17")


@pytest.mark.parametrize(("scheme", "nearest"), [("p5", "p6"), ("p7", "p8")])
def test_bits_that_core_ml_lacks_are_refused_with_the_nearest(scheme: str, nearest: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=rf"no palettes of {scheme[1]} bits; {nearest} is the nearest"):
        ew.lower(compressed("cnn", scheme), "coreml", tmp_path)
    with pytest.raises(TargetError, match=rf"no native form of {scheme}\n.*'{nearest}', the nearest"):
        refuse_schemes(get_target("coreml"), [scheme])
    with pytest.raises(TargetError, match="'p4', the nearest"):
        refuse_schemes(get_target("coreml", "iOS==17"), ["p3"])


@pytest.mark.parametrize("target", OTHERS)
def test_a_format_without_palettes_names_the_nearest_integers(target: str, tmp_path: Path) -> None:
    try:
        require_runtime(get_target(target))
    except TargetError as error:
        pytest.skip(str(error))
    whole = "w4" in get_target(target).capabilities.schemes
    for scheme, nearest in (("p3", "w4"), ("p4", "w4"), ("p8", "w8")):
        expected = rf"no native form of {scheme}\n" + (rf".*'{nearest}', the nearest that it has" if whole else "")
        with pytest.raises(TargetError, match=expected):
            refuse_schemes(get_target(target), [scheme])
    with pytest.raises(TargetError, match=r"no weights that are indices into tables \(p4\)") as caught:
        ew.lower(compressed("cnn", "p4"), target, tmp_path)
    assert ("compress with 'w4'" if whole else "leave the target out") in str(caught.value)
    assert not list(tmp_path.iterdir()), "nothing half-written"


@pytest.mark.slow
def test_a_release_of_palettes_passes_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the workers, which read the program from a file, and the package's own reference."""
    compress = '[[compress]]\npass = "quantize"\nscheme = "p4"\nminimum_elements = 64\n'
    release = write_release(tmp_path / "release", deliveries=deliver("coreml"), compress=compress)
    assert run_command("export", release.file, "--out", tmp_path / "out") == 0, capsys.readouterr().err
    (delivery,) = result_of(tmp_path / "out")["deliveries"]
    assert delivery["status"] == "passed"
    assert delivery["lowering"]["sqnr_db"] > 80
    assert run_command("verify", tmp_path / "out" / delivery["package"]) == 0
