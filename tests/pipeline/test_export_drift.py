"""A real export whose file computes other numbers in one layer: the delivery is missed, and the report names it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewright.device_profiles.host import detect_host
from tests.small_release import COMPRESS, deliver, delivery_of, is_installed, run_command, write_release

pytestmark = pytest.mark.slow
CROOKED = '''
from edgewright.targets.onnx import OnnxTarget


class CrookedTarget(OnnxTarget):
    """ONNX from a converter with a fault: the weight of one layer comes out a third too small."""

    name = "crooked"

    def lower(self, program, folder, *, integer_boundary=False):
        import onnx
        from onnx import numpy_helper

        artifact = super().lower(program, folder, integer_boundary=integer_boundary)
        model = onnx.load(artifact.main)
        for value in model.graph.initializer:
            if value.name.replace(".", "_") == "{weight}":
                numbers = numpy_helper.to_array(value)
                value.CopyFrom(numpy_helper.from_array((numbers * 0.7).astype(numbers.dtype), value.name))
        onnx.save(model, artifact.main)
        return artifact
'''


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the module path of this process and of its workers: what is installed there brings a target."""
    if not is_installed("onnx"):
        pytest.skip("the runtime of onnx is not installed")
    folder = tmp_path / "site"
    info = folder / "crooked-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: crooked\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgewright.targets]\ncrooked = crooked_target:CrookedTarget\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    detect_host.cache_clear()  # what this host carries was found before
    yield folder / "crooked_target.py"
    detect_host.cache_clear()
    sys.modules.pop("crooked_target", None)


@pytest.mark.parametrize(("compress", "guilty"), [("", "text.0"), (COMPRESS, "text.2")])
def test_a_layer_that_a_converter_gets_wrong_is_the_first_that_the_report_names(
    compress: str, guilty: str, plug_in: Path, tmp_path: Path
) -> None:
    plug_in.write_text(CROOKED.format(weight=f"{guilty.replace('.', '_')}_weight"))
    crooked = deliver("crooked", "host", name="crooked")
    release = write_release(tmp_path / "release", deliveries=crooked, quality="", compress=compress)
    assert run_command("export", release.file, "--out", tmp_path / "out") == 1, "a comparison was missed"
    missed = delivery_of(tmp_path / "out", "crooked")
    assert missed["status"] == "missed"
    assert missed["lowering"]["sqnr_db"] < 25
    first, *others = missed["drift"]["layers"]
    assert (first["module"], first["op"], first["faulty"]) == (guilty, "linear", True)
    assert not any(layer["faulty"] for layer in others)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{guilty} (linear" in page.partition("Where it drifts")[2]
