"""Samples that run at once leave what one after the other leaves."""

import threading

import pytest
import torch

from edgewright.calibration import side_by_side
from edgewright.calibration.side_by_side import SideBySide

SAMPLES = list(range(40))


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side.os, "cpu_count", lambda: 2 * torch.get_num_threads())


def test_two_run_at_once() -> None:
    both = threading.Barrier(2, timeout=30)
    SideBySide().run(lambda sample: both.wait(), SAMPLES)


def test_one_runs_where_operations_have_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side.os, "cpu_count", torch.get_num_threads)
    threads = set()
    SideBySide().run(lambda sample: threads.add(threading.get_ident()), SAMPLES)
    assert threads == {threading.get_ident()}


def test_what_is_shared_sees_the_samples_in_their_order() -> None:
    seen: dict[str, list[int]] = {"first": [], "twice": []}
    samples = SideBySide(["first", "twice", "twice"])
    later = threading.Event()

    def run(sample: int) -> None:
        if sample == 0:  # the second sample comes to its first turn before this one
            assert later.wait(30)
        later.set()
        for shared in ("first", "twice", "twice"):
            with samples.turn(shared):
                seen[shared].append(sample)

    samples.run(run, SAMPLES)
    assert seen == {"first": SAMPLES, "twice": [sample for sample in SAMPLES for _ in range(2)]}


def test_no_sample_computes_gradients() -> None:
    weight = torch.ones(2, requires_grad=True)
    found: list[bool] = []
    SideBySide().run(lambda sample: found.append((weight * sample).requires_grad), SAMPLES)
    assert found == [False] * len(SAMPLES)


def test_the_first_fault_is_told_and_ends_the_run() -> None:
    samples = SideBySide(["shared"])
    seen: list[int] = []

    def run(sample: int) -> None:
        if sample == 4:  # fails at once, without its turn
            raise ValueError("the fifth")
        with samples.turn("shared"):
            if sample == 3:
                raise ValueError("the fourth")
            seen.append(sample)

    with pytest.raises(ValueError, match="the fourth"):
        samples.run(run, SAMPLES)
    assert seen == [0, 1, 2]
