"""The other side of jobs.py: `python -m edgewright.pipeline.worker [TARGET] FOLDER` runs one job.

It waits for a line on its standard input, with TARGET's modules imported meanwhile; then it reads the job in FOLDER and
leaves the result there.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib
import json
import select
import signal
import sys
import traceback
from pathlib import Path

from edgewright.errors import EdgewrightError
from edgewright.pipeline.jobs import READY

JOBS = {
    "deliver": "edgewright.pipeline.deliver:run_delivery",
    "drift": "edgewright.pipeline.drift_job:run_drift",
    "compare-float32": "edgewright.pipeline.speed:run_comparison",
    "metric": "edgewright.pipeline.assess_metric:run_metric",
    "measure": "edgewright.pipeline.measure:run_measurement",
}
PR_SET_PDEATHSIG = 1


def main(folder: Path, target: str | None = None) -> int:
    if sys.platform == "linux":  # die with the parent, however that ends
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    # Readable at once: the job is there already, or the parent is gone.
    if target is not None and not select.select([sys.stdin], [], [], 0)[0]:
        _preload(target)
    (folder / READY).touch()
    if not sys.stdin.readline():
        return 1  # the parent gave up before there was a job
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


def _preload(target: str) -> None:
    from edgewright.targets import get_target

    with contextlib.suppress(Exception):  # the job meets the same fault, and tells it
        importlib.import_module(JOBS["deliver"].partition(":")[0])
        importlib.import_module("torch.export.pt2_archive")  # torch.export.load imports it
        get_target(target).preload()


def _fail(folder: Path, message: str, refusals: list[dict[str, str]]) -> None:
    (folder / "failure.json").write_text(json.dumps({"message": message, "refusals": refusals}))


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[-1]), *sys.argv[1:-1]))
