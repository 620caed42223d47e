"""The bench of exports: it tells processes apart, sums them at one moment, and holds them against its limits."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from bench import export
from edgewright.pipeline.results import DeliveryResult, ReleaseResult

STARTER = """
import subprocess, sys
work = "import time; kept = bytearray(60_000_000); time.sleep(30)"
subprocess.run([sys.executable, "-c", work], stdout=open(sys.argv[1], "wb"))
"""


def result_of(status: str) -> ReleaseResult:
    delivery = DeliveryResult(name="phone", target="onnx", device="host", status=status, reason="too slow")  # type: ignore[arg-type]
    return ReleaseResult(
        name="small",
        edgewright="0",
        source="a:b",
        model_digest="",
        parameters=1,
        float32_bytes=4,
        deliveries=(delivery,),
    )


def test_peaks_together_are_of_one_moment_and_not_the_sum_of_peaks() -> None:
    peaks = export.Peaks()
    peaks.add({"parent": 5, "phone": 1})
    peaks.add({"parent": 2, "phone": 3})
    assert peaks.by_process == {"parent": 5, "phone": 3}
    assert peaks.together == 6


def test_a_process_tree_is_weighed_by_parent_and_worker(tmp_path: Path) -> None:
    """A worker is known by its log, whether it was started or forked."""
    job = tmp_path / export.JOBS / "phone" / export.MEASURE
    job.mkdir(parents=True)
    process = psutil.Popen([sys.executable, "-c", STARTER, str(job / export.LOG)])
    try:
        deadline = time.monotonic() + 20
        sizes: dict[str, int] = {}
        while sizes.get("phone/measure", 0) < 60_000_000 and time.monotonic() < deadline:
            sizes = export.sizes_below(process)
            time.sleep(0.05)
        assert set(sizes) == {export.PARENT, "phone/measure"}
        assert sizes["phone/measure"] > 60_000_000 > sizes[export.PARENT] > 0
    finally:
        for member in [*process.children(recursive=True), process]:
            member.kill()
        process.wait()


@pytest.mark.parametrize(
    ("seconds", "together", "status", "said"),
    [
        (30.0, 1_000_000_000, "passed", []),
        (30.0, 1_000_000_000, "undecided", []),
        (121.0, 1_000_000_000, "passed", ["121 s, limit 120 s"]),
        (30.0, 6_100_000_000, "passed", ["6.10 GB, limit 6 GB"]),
        (30.0, 1_000_000_000, "missed", ["phone missed: too slow"]),
    ],
)
def test_misses_name_the_figure_and_the_limit(seconds: float, together: int, status: str, said: list[str]) -> None:
    assert list(export.misses("digits", seconds, together, result_of(status))) == said
