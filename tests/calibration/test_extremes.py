"""The cheap statistics: extremes, moving averages, moments."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.calibration.extremes import Averages, Extremes, Moments, extremes_of


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.integers(1, 400), st.floats(-5.0, 5.0))
def test_moments_in_chunks_give_the_standard_deviation_of_all(seed: int, chunk: int, mean: float) -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(seed)) + mean
    moments = Moments()
    for part in values.split(chunk):
        moments.update(part)
    assert moments.deviation == pytest.approx(float(values.double().std(correction=0)), rel=1e-4)


def test_moments_of_a_constant_and_of_nothing_are_zero() -> None:
    moments = Moments()
    assert moments.deviation == 0.0
    moments.update(torch.full((7,), 3.0))
    assert moments.deviation == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_extremes_are_taken_over_all_axes_but_one(axis: int | None) -> None:
    values = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    low, high = extremes_of(values, axis)
    rows = values.reshape(1, -1) if axis is None else values.movedim(axis, 0).flatten(1)
    assert torch.equal(low.reshape(-1), rows.amin(1))
    assert torch.equal(high.reshape(-1), rows.amax(1))
    assert low.shape == (() if axis is None else (values.shape[axis],))


def test_a_moving_average_starts_at_the_first_batch_and_follows_by_a_hundredth() -> None:
    averages = Averages()
    for high in (1.0, 2.0, 2.0):
        averages.update(torch.tensor([0.0, high]))
    assert float(averages.state()["high"]) == pytest.approx(1.0 + 0.01 + 0.01 * 0.99)


def test_nan_stays_in_the_extremes() -> None:
    extremes = Extremes()
    for value in (1.0, float("nan"), 2.0):
        extremes.update(torch.tensor([value, 0.0]))
    assert bool(extremes.low.isnan()) and bool(extremes.high.isnan())
