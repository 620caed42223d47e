"""edgewright lives beside a user's project that has packages called pipeline and targets of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

USER = """
import pipeline, targets, calibration
from pipeline.capture import mine

from edgewright.pipeline.capture import capture
from edgewright.targets import get_target, target_names
import edgewright.pipeline, edgewright.targets, edgewright.calibration

assert pipeline.OWNER == targets.OWNER == calibration.OWNER == "the user"
assert mine() == "the user's capture"
assert pipeline is not edgewright.pipeline and targets is not edgewright.targets
assert capture.__module__ == "edgewright.pipeline.capture"
assert "onnx" in target_names() and get_target("onnx").__class__.__module__ == "edgewright.targets.onnx"

import torch
program = capture(torch.nn.Linear(3, 2), (torch.zeros(1, 3),))
assert [spec.name for spec in program.inputs] == ["input"]

import sys
strangers = [name for name in sys.modules if name.startswith(("pipeline.", "targets.", "calibration."))]
assert strangers == ["pipeline.capture"], strangers
print("BOTH")
"""


def user_project(folder: Path) -> Path:
    for name in ("pipeline", "targets", "calibration", "device_profiles"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text('OWNER = "the user"\n')
    (folder / "pipeline" / "capture.py").write_text('def mine():\n    return "the user\'s capture"\n')
    (folder / "main.py").write_text(USER)
    return folder / "main.py"


def test_a_users_own_pipeline_and_targets_work_beside_ours(tmp_path: Path) -> None:
    main = user_project(tmp_path)
    done = subprocess.run([sys.executable, str(main)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "BOTH\n"


def test_ours_are_not_importable_under_the_bare_names(tmp_path: Path) -> None:
    """Installing edgewright puts one name on the path: a bare `import pipeline` finds nothing of ours."""
    code = "import importlib.util, edgewright; print(*map(importlib.util.find_spec, ['pipeline', 'targets']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "None None\n", done.stderr


def test_importing_edgewright_imports_no_runtime(tmp_path: Path) -> None:
    code = (
        "import sys, edgewright.targets, edgewright.pipeline.capture; "
        "runtimes = {'onnx', 'onnxruntime', 'openvino', 'coremltools', 'litert_torch', 'tensorflow'}; "
        "print(sorted(runtimes & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr
