"""Run samples through an artifact in a named version of its runtime, in a process of that version's environment."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgewright.pipeline.arrays import load_samples_file, save_samples_file
from edgewright.pipeline.metrics import sqnr_by_output
from edgewright.pipeline.runtimes import Pin
from edgewright.pipeline.runtimes_environment import Progress, ready_environment
from edgewright.targets.base import Arrays, release_of

CHILD = Path(__file__).resolve().with_name("runtimes_child.py")
RUN_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class NamedRun:
    """What a named runtime made of a package's samples.

    Args:
        asked: as it was named, "onnxruntime==1.17.3".
        runtime: name and version as the runtime itself says; empty when it did not come so far.
        outputs: SQNR in dB of each output; empty with a fault.
        fault: why there are no outputs, in one sentence.
    """

    asked: str
    runtime: str = ""
    outputs: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""

    def passes(self, floor_db: float) -> bool:
        return bool(self.outputs) and all(value >= floor_db for value in self.outputs.values())


def run_in(
    pin: Pin,
    artifact: Path,
    samples: Sequence[tuple[Arrays, Arrays]],
    dtypes: Mapping[str, str],
    *,
    threads: int = 1,
    folder: Path | None = None,
    progress: Progress = lambda stage: None,
) -> NamedRun:
    """Compare an artifact's outputs in `pin` with the expected ones.

    Args:
        artifact: what the runtime opens.
        samples: inputs and expected outputs.
        dtypes: the model's own dtype of each input and output.
        folder: where environments are kept; None: the user's cache.
    Raises:
        TargetError: there is no environment and none could be built. What goes wrong in it is a fault of the run.
    """
    python = ready_environment(pin, folder, progress)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        job = {"script": str(pin.runtime.script), "artifact": str(artifact.resolve())}
        (place / "job.json").write_text(json.dumps({**job, "threads": threads, "dtypes": dict(dtypes)}))
        save_samples_file(place / "inputs.npz", [inputs for inputs, _ in samples])
        fault = _run_child(python, place)
        if fault:
            return NamedRun(str(pin), fault=fault)
        found = load_samples_file(place / "outputs.npz")
        runtime = json.loads((place / "result.json").read_text())["runtime"]
    expected = [outputs for _, outputs in samples]
    wrong = _other_version(pin, runtime, python) or _other_form(expected[0], found[0])
    if wrong:
        return NamedRun(str(pin), runtime, fault=wrong)
    return NamedRun(str(pin), runtime, sqnr_by_output(expected, found))


def _run_child(python: Path, folder: Path) -> str:
    """Empty, or why there is no result."""
    with (folder / "log.txt").open("wb") as log:
        try:
            done = subprocess.run(
                [str(python), "-I", str(CHILD), str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=RUN_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it did not end within {RUN_TIMEOUT_S:.0f} s"
    if done.returncode == 0 and (folder / "result.json").is_file():
        return ""
    failure = folder / "failure.json"
    if failure.is_file():
        return " ".join(str(json.loads(failure.read_text())).split())[:600]
    if done.returncode < 0:
        return f"its process was killed by {signal.Signals(-done.returncode).name}"
    return f"its process ended without a result, exit code {done.returncode}"


def _other_version(pin: Pin, runtime: str, python: Path) -> str:
    """What was asked for is what has to have run: "2024.0" and "2024.0.0" are one version."""

    ran, asked = release_of(runtime.rpartition(" ")[2]), release_of(pin.version)
    length = max(len(ran), len(asked))
    if ran + (0,) * (length - len(ran)) == asked + (0,) * (length - len(asked)):
        return ""
    return f"its environment holds {runtime}: remove {python.parents[1]} to have it made anew"


def _other_form(expected: Arrays, found: Arrays) -> str:
    missing = sorted(set(expected) - set(found))
    if missing:
        return f"it gives no output {', '.join(missing)}"
    wrong = [name for name, value in expected.items() if found[name].size != value.size]
    return "; ".join(f"{name} has shape {found[name].shape}, not {expected[name].shape}" for name in wrong)
