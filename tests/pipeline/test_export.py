"""The whole way: the digits model to every target as a user runs it, and a model in parts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgewright as ew
from edgewright.pipeline.results import ReleaseResult
from edgewright.targets import get_target
from tests.small_release import (
    ALL_TARGETS,
    deliver,
    delivery_of,
    is_installed,
    own_imports,
    result_of,
    run_command,
    staging_left,
    write_release,
)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "examples" / "digits" / "release.toml"


def name_of(target: str) -> str:
    return f"{ALL_TARGETS[target]}-{target}"


def needs(target: str) -> None:
    if not is_installed(target):
        pytest.skip(f"the runtime of {target} is not installed")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`edgewright export examples/digits/release.toml`, in a process of its own; without what is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("scikit-learn is not installed")
    folder = tmp_path_factory.mktemp("digits")
    head, *deliveries = RELEASE.read_text().split("[[deliver]]")
    kept = [text for text in deliveries if any(f'"{name}"' in text for name in ALL_TARGETS if is_installed(name))]
    release = folder / "release.toml"
    release.write_text("[[deliver]]".join([head, *kept]))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("edgewright")), "export", str(release), "--out", str(folder / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for text in kept:
        assert text.partition('device = "')[2].partition('"')[0] in done.stdout
    return folder / "out"


def test_the_export_leaves_packages_zips_the_record_and_the_report(digits: Path) -> None:
    targets = [target for target in ALL_TARGETS if is_installed(target)]
    wanted = {"release.json", "report.html"} | {name_of(t) for t in targets} | {f"{name_of(t)}.zip" for t in targets}
    assert {path.name for path in digits.iterdir()} == wanted
    page = (digits / "report.html").read_text()
    assert all(name_of(target) in page for target in targets)
    assert "default-src 'none'" in page, "self-contained: nothing is fetched"
    assert "<script src" not in page


def test_the_record_fits_its_schema_and_says_how_each_figure_was_got(digits: Path) -> None:
    result = ReleaseResult.model_validate_json((digits / "release.json").read_text())
    assert result.passed
    for delivery in result.deliveries:
        assert delivery.package == f"{delivery.name}.zip"
        assert delivery.latency_ms["device"].provenance == "predicted"
        assert delivery.latency_ms["device"].low is not None
        assert ("host_p50" in delivery.latency_ms) == (delivery.target != "coreml")
        assert all(check.outcome == "passed" for check in delivery.checks)
        names = {check.name for check in delivery.checks}
        assert {"size", "latency", "peak memory", "metric drop", "low-precision share"} <= names
    assert len(result.checkpoint_sha256 or "") == len(result.calibration_sha256 or "") == 64
    assert result.float32_bytes == 4 * result.parameters


@pytest.mark.parametrize("target", ALL_TARGETS)
def test_the_artifact_is_small_low_precision_and_as_good_as_the_model(target: str, digits: Path) -> None:
    needs(target)
    found = delivery_of(digits, name_of(target))
    assert found["size_bytes"] <= 0.30 * result_of(digits)["float32_bytes"] + 20_000
    assert found["low_precision_share"]["value"] >= 0.95
    metric = found["metric"]
    assert metric["original"] >= 0.97
    assert metric["original"] - metric["artifact"] <= 0.01
    assert found["lowering"]["sqnr_db"] >= 30


def test_all_packages_name_the_same_class(digits: Path) -> None:
    """All 500 test pictures through `ew.open`, each package against each other one."""
    from examples.digits.data import test_set

    images, labels = test_set()
    answers = {}
    for target in [target for target in ALL_TARGETS if is_installed(target)]:
        package = digits / name_of(target)
        artifact = get_target(target).find(package / "artifact")
        with ew.open(artifact) as session:
            rows = [session.run({"image": image[None]})["logits"] for image in images]
        answers[target] = np.concatenate(rows).argmax(1)
        assert float(np.mean(answers[target] == labels)) == pytest.approx(
            delivery_of(digits, name_of(target))["metric"]["artifact"]
        )
    pairs = [(one, two) for one in answers for two in answers if one < two]
    assert len(pairs) == len(answers) * (len(answers) - 1) // 2
    for one, two in pairs:
        assert np.mean(answers[one] == answers[two]) >= 0.995, (one, two)


@pytest.mark.parametrize("target", ALL_TARGETS)
@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_every_package_verifies(target: str, suffix: str, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs(target)
    assert run_command("verify", digits / f"{name_of(target)}{suffix}") == 0
    printed = capsys.readouterr()
    assert f"verified {name_of(target)}" in printed.out


PARTS = """
[[model.parts]]
name = "image-tower"
module = "image"

[[model.parts]]
name = "text-tower"
module = "text"

[[model.parts]]
name = "unused"
module = "nowhere"
"""


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-tower model from one release file: whole, and each tower on its own."""
    needs("onnx")
    folder = tmp_path_factory.mktemp("towers")
    tables = deliver() + deliver(part="image-tower") + deliver(part="text-tower")
    release = write_release(folder / "release", parts=PARTS, deliveries=tables)
    with own_imports():
        ew.export(release.file, folder / "out")
    return folder / "out"


def test_a_model_and_its_parts_come_from_one_release(towers: Path) -> None:
    names = ["raspberry-pi-5-onnx", "image-tower-raspberry-pi-5-onnx", "text-tower-raspberry-pi-5-onnx"]
    found = [delivery_of(towers, name) for name in names]
    assert [delivery["status"] for delivery in found] == ["passed"] * 3
    assert [delivery["part"] for delivery in found] == [None, "image-tower", "text-tower"]
    manifests = [json.loads((towers / name / "manifest.json").read_text()) for name in names]
    assert [[port["name"] for port in manifest["outputs"]] for manifest in manifests] == [
        ["logits"],
        ["output_0"],
        ["output_0"],
    ]
    assert len({manifest["program_digest"] for manifest in manifests}) == 3
    assert [delivery["float32_bytes"] for delivery in found[1:]] == [4 * (16 * 48 + 48 + 48 * 32 + 32)] * 2


def test_the_metric_of_a_part_is_the_tasks_with_the_part_swapped_in(towers: Path) -> None:
    whole, *parts = (delivery["metric"] for delivery in result_of(towers)["deliveries"])
    for part in parts:
        assert part["original"] == pytest.approx(whole["original"], rel=1e-6)
        assert part["artifact"] == pytest.approx(part["compressed"], rel=1e-5)
        assert part["artifact"] != part["original"], "the other tower and the head are float; the part is not"
        assert part["artifact"] != whole["artifact"]


def test_a_part_that_the_model_lacks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = write_release(tmp_path / "release", parts=PARTS, deliveries=deliver(part="unused"))
    release.edit('module = "nowhere"', 'module = "txet"')
    assert run_command("export", release.file, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "the model has no such submodule\n  got: txet\n  expected: did you mean 'text'" in error
    assert "part 'unused'" in error
    assert not (tmp_path / "out").exists()


def test_a_graph_that_is_not_the_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Python counter in forward(): the capture sees one value of it."""
    code = """

class Counting(Net):
    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return {"logits": self.head(self.image(x)) * self.calls}


def build_counting():
    return Counting()
"""
    release = write_release(tmp_path / "release", code=code)
    release.edit(":build", ":build_counting")
    assert run_command("export", release.file, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "the captured graph does not compute what the model does" in error
    assert "logits" in error


def test_a_newer_release_replaces_the_older_one_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Float after int8, into the same folder: nothing of the older package stays."""
    needs("onnx")
    release = write_release(tmp_path / "release", compress="")
    out = tmp_path / "out"
    old = out / "raspberry-pi-5-onnx"
    (old / "artifact").mkdir(parents=True)
    (old / "artifact" / "older.onnx").write_text("older")
    (out / "mine.txt").write_text("the user's own file")
    assert run_command("export", release.file, "--out", out) == 0
    capsys.readouterr()
    manifest: dict[str, Any] = json.loads((old / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["artifact/model.onnx", "vectors.safetensors"]
    assert not (old / "artifact" / "older.onnx").exists()
    assert (out / "mine.txt").read_text() == "the user's own file"
    assert manifest["low_precision_share"]["value"] == 0.0
    assert manifest["end_to_end"]["sqnr_db"] >= 80
    assert staging_left(out) == []


def test_statistics_and_warnings_of_calibration_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("onnx")
    release = write_release(tmp_path / "release")
    release.edit("samples = 32", 'samples = 32\nstatistics = "kept.safetensors"')
    release.edit(
        'shape = ["batch", 16]',
        'shape = ["batch", 16]\npreprocess = { layout = "NCHW", mean = [0.5], std = [0.05] }',
    )
    assert run_command("export", release.file, "--out", tmp_path / "out") == 0
    assert "1 warning: the report lists what to look at" in capsys.readouterr().out
    made = release.folder / "kept.safetensors"
    before = made.stat().st_mtime_ns
    (record,) = [entry for entry in result_of(tmp_path / "out")["recipe"] if entry["name"] == "quantize-static"]
    ((node, text),) = record["warnings"]
    assert node == "x"
    assert text.endswith("the declared range from -10 to 10: 20% of it is covered")
    assert "20% of it is covered" in (tmp_path / "out" / "report.html").read_text()
    release.edit('scheme = "w8a8"', 'scheme = "w8a8"\nobserver = "mse"')
    assert run_command("export", release.file, "--out", tmp_path / "out") == 0
    assert made.stat().st_mtime_ns == before
    release.edit("samples = 32", "samples = 16")
    assert run_command("export", release.file, "--out", tmp_path / "out") == 2
    assert "the calibration statistics are of other calibration data" in capsys.readouterr().err


def test_what_a_killed_run_left_behind_is_removed_by_the_next(tmp_path: Path) -> None:
    from edgewright.pipeline.staging import staging_folder

    left = tmp_path / ".edgewright-999999999"
    (left / "half").mkdir(parents=True)
    with staging_folder(tmp_path) as staging:
        assert staging.is_dir()
        assert not left.exists()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_with_a_way_out_and_leaves_no_staging(tmp_path: Path) -> None:
    from edgewright.errors import PackageError
    from edgewright.pipeline.staging import staging_folder

    with pytest.raises(PackageError, match="No space left"), staging_folder(tmp_path / "out"):
        raise OSError(28, "No space left on device", "model.onnx")
    assert not (tmp_path / "out").exists()
