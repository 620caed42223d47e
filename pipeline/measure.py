"""Time an artifact and weigh its process, in a process that holds nothing but its runtime."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.targets import get_target

WARM_UP, LEAST_RUNS, MOST_RUNS, SECONDS = 3, 15, 200, 1.0


@dataclass(frozen=True)
class Measurement:
    """A job: open the artifact of `target` in `artifact` and run it on the first sample of `samples` (.npz)."""

    target: str
    artifact: str
    samples: str
    threads: int = 1


def run_measurement(folder: Path, target: str, artifact: str, samples: str, threads: int) -> dict[str, Any]:
    """Latency in ms (p50, p90 over 15 to 200 runs), time to open in ms, and peak memory in bytes.

    Peak memory is what the process grew by: its largest resident set less that before the runtime was imported.
    """
    with np.load(samples) as content:
        inputs = {name: content[name] for name in content.files}
    chosen = get_target(target)
    found = chosen.find(Path(artifact))
    before = peak_bytes()
    opened = time.perf_counter()
    with chosen.open(found, threads) as session:
        open_ms = (time.perf_counter() - opened) * 1e3
        for _ in range(WARM_UP):
            session.run(inputs)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < LEAST_RUNS or (time.perf_counter() - began < SECONDS and len(times) < MOST_RUNS):
            start = time.perf_counter()
            session.run(inputs)
            times.append((time.perf_counter() - start) * 1e3)
        runtime = session.runtime
    return {
        "p50_ms": float(np.percentile(times, 50)),
        "p90_ms": float(np.percentile(times, 90)),
        "runs": len(times),
        "open_ms": open_ms,
        "peak_bytes": peak_bytes() - before,
        "runtime": runtime,
    }


def peak_bytes() -> int:
    """The largest resident set of this process. On Linux from /proc: ru_maxrss still holds the parent's."""
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().split("\n"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
