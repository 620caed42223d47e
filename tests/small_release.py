"""A release that takes seconds: a small net in a .py file of its own, a checkpoint and release.toml in one folder.

Use `write_release(folder)`, or with `deliver=`, `quality=` and the like to change a part of it. Each release has a
module of its own name, so that no test meets another's code. `run_command` runs the command line in this process,
as `edgewright` does, and gives its exit code.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import edgewright
from edgewright.pipeline.cli import main
from edgewright.targets import get_target

TASK = '''
import sys

import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 32))
        self.text = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 32))
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return {"logits": self.head(torch.relu(self.image(x)) + torch.relu(self.text(x)))}


class Branching(Net):
    def forward(self, x):
        if x.sum() > 0:  # the user's own line
            return {"logits": self.head(self.image(x))}
        return {"logits": self.head(self.text(x))}


def build():
    torch.manual_seed(0)
    return Net()


def build_branching():
    return Branching()


def _draw(count, seed):
    return np.random.default_rng(seed).uniform(-2, 2, (count, 16)).astype(np.float32)


def _one_by_one(rows):
    for row in rows:
        yield {"x": row[None]}


def calibration():
    return _one_by_one(_draw(32, 1))


def validation():
    return _one_by_one(_draw(8, 2))


def answers(predict):
    """Minus the mean square of the logits: any other number than the original's shows."""
    return -float(np.mean(np.square(predict({"x": _draw(20, 3)})["logits"])))


def in_worker():
    name = getattr(sys.modules["__main__"].__spec__, "name", "")
    return name in ("edgewright.pipeline.worker", "edgewright.pipeline.job_server")
'''

RELEASE = """
name = "tiny"

[model]
source = "{task}:build"
checkpoint = "weights.safetensors"

[[model.inputs]]
name = "x"
shape = ["batch", 16]
{parts}
[calibration]
data = "{task}:calibration"
samples = 32

[validation]
data = "{task}:validation"

[quality]
{quality}
{compress}
{deliver}
"""

COMPRESS = '[[compress]]\npass = "quantize"\nscheme = "w8a8"\n'
ALL_TARGETS = {
    "onnx": "raspberry-pi-5",
    "openvino": "intel-n100",
    "tflite": "pixel-8",
    "coreml": "iphone-15-pro",
}
_numbers = itertools.count()


@dataclass(frozen=True)
class Tiny:
    """A release on disk."""

    file: Path
    task: str

    @property
    def folder(self) -> Path:
        return self.file.parent

    def edit(self, old: str, new: str) -> None:
        """Replace a part of the release file; it has to be there."""
        text = self.file.read_text()
        assert old in text, f"{old!r} is not in the release file"
        self.file.write_text(text.replace(old, new))


def deliver(target: str = "onnx", device: str | None = None, **settings: object) -> str:
    """A [[deliver]] table."""
    entries = {"device": device or ALL_TARGETS[target], "target": target, **settings}
    return "[[deliver]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items())


def write_release(
    folder: Path,
    *,
    deliveries: str | None = None,
    quality: str = 'metric = "{task}:answers"\nmax_drop = 5.0\n',
    compress: str = COMPRESS,
    parts: str = "",
    code: str = "",
) -> Tiny:
    """Write the whole release; `code` is appended to its module."""
    folder.mkdir(parents=True, exist_ok=True)
    task = f"tiny_task_{next(_numbers)}"
    (folder / f"{task}.py").write_text(TASK + code)
    content = RELEASE.format(
        task=task,
        parts=parts,
        quality=quality.format(task=task),
        compress=compress,
        deliver=deliver() if deliveries is None else deliveries,
    )
    (folder / "release.toml").write_text(content)
    save_file(reference_model(folder, task).state_dict(), str(folder / "weights.safetensors"))
    return Tiny(folder / "release.toml", task)


def reference_model(folder: Path, task: str) -> torch.nn.Module:
    namespace: dict[str, Any] = {"__name__": task}
    exec((folder / f"{task}.py").read_text().partition("def in_worker")[0], namespace)
    with torch.random.fork_rng():
        return namespace["build"]().eval()


@contextmanager
def own_imports() -> Iterator[None]:
    """What an export adds to sys.path and sys.modules is taken away again."""
    path, modules = list(sys.path), set(sys.modules)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if name.startswith("tiny_task_"):
                del sys.modules[name]


def run_command(*arguments: object) -> int:
    """The command line in this process: its exit code."""
    before = sys.argv
    sys.argv = ["edgewright", *map(str, arguments)]
    try:
        with own_imports(), pytest.raises(SystemExit) as exit_:
            main()
    finally:
        sys.argv = before
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def contents(folder: Path) -> dict[str, str]:
    """Everything below a folder, by relative path: the digest of a file, the kind of anything else."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "dir"
        for path in sorted(folder.rglob("*"))
    }


def result_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "release.json").read_text())
    return content


def delivery_of(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in result_of(out)["deliveries"] if entry["name"] == name)
    return found


@cache
def exported() -> Path:
    """The output folder of the release on every target that is installed here; made once a process, never changed."""
    folder = Path(tempfile.mkdtemp(prefix="edgewright-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    targets = [target for target in ALL_TARGETS if is_installed(target)]
    release = write_release(folder / "release", deliveries="".join(map(deliver, targets)))
    with own_imports():
        result = edgewright.export(release.file, folder / "out")
    assert [(delivery.status, delivery.reason) for delivery in result.deliveries] == [("passed", "")] * len(targets)
    return folder / "out"


def is_installed(target: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in get_target(target).modules)


def package_of(target: str) -> Path:
    """The package folder of a target; its zip lies beside it. A target without its runtime is a skip."""
    if not is_installed(target):
        pytest.skip(f"the runtime of {target} is not installed")
    return exported() / f"{ALL_TARGETS[target]}-{target}"


def staging_left(out: Path) -> list[str]:
    """What an export works in and has to take away."""
    return [path.name for path in out.iterdir() if path.name.startswith(".")]
