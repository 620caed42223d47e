"""The other side of jobs.py: `python -m edgewright.pipeline.worker FOLDER` runs the job in a folder."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import json
import signal
import sys
import traceback
from pathlib import Path

from edgewright.errors import EdgewrightError
from edgewright.pipeline.collector import collect_seldom

JOBS = {
    "deliver": "edgewright.pipeline.deliver:run_delivery",
    "drift": "edgewright.pipeline.drift_job:run_drift",
    "compare-float32": "edgewright.pipeline.speed:run_comparison",
    "metric": "edgewright.pipeline.assess_metric:run_metric",
    "measure": "edgewright.pipeline.measure:run_measurement",
}
PR_SET_PDEATHSIG = 1


def main(folder: Path) -> int:
    """Run a job and leave its result, or its failure, in the folder; gives the exit code."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    job = json.loads((folder / "job.json").read_text())
    module, _, function = JOBS[job["kind"]].partition(":")
    try:
        result = getattr(importlib.import_module(module), function)(folder=folder, **job["arguments"])
    except EdgewrightError as error:
        _fail(folder, str(error), [dataclasses.asdict(refusal) for refusal in getattr(error, "refusals", ())])
        return 1
    except Exception as error:  # noqa: BLE001  (the parent has to hear of everything)
        traceback.print_exc()
        _fail(folder, f"{type(error).__name__}: {error}".strip().split("\n")[0], [])
        return 1
    (folder / "result.json").write_text(json.dumps(result))
    return 0


def die_with_parent() -> None:
    """However the parent ends, this process is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _fail(folder: Path, message: str, refusals: list[dict[str, str]]) -> None:
    (folder / "failure.json").write_text(json.dumps({"message": message, "refusals": refusals}))


if __name__ == "__main__":
    collect_seldom()
    raise SystemExit(main(Path(sys.argv[-1])))
