"""Streaming histograms: exact counts, whatever the chunks, in constant memory."""

from __future__ import annotations

from random import Random

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgewright.calibration.histogram import BINS, HALF, Histogram

FINITE = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False).filter(
    lambda value: value == 0 or abs(value) > 2.0**-80
)


def histogram_of(*chunks: Tensor, axis: int | None = None) -> Histogram:
    found = Histogram(axis)
    for chunk in chunks:
        found.update(chunk)
    return found


def same(one: Histogram, other: Histogram) -> bool:
    left, right = one.state(), other.state()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@settings(deadline=None, max_examples=60)
@example([[-(2.0**-70)], [2.0**90]], Random(0))
@given(st.lists(st.lists(FINITE, min_size=1, max_size=20), min_size=1, max_size=5), st.randoms())
def test_streaming_in_chunks_of_any_order_equals_all_at_once(chunks: list[list[float]], random: Random) -> None:
    tensors = [torch.tensor(chunk) for chunk in chunks]
    whole = histogram_of(torch.cat(tensors))
    random.shuffle(tensors)
    assert same(whole, histogram_of(*tensors))


@settings(deadline=None, max_examples=60)
@given(st.lists(FINITE, min_size=1, max_size=50))
def test_every_value_lies_in_the_bin_that_counts_it(values: list[float]) -> None:
    (row,) = histogram_of(*torch.tensor(values).split(7)).rows()
    edges = (torch.arange(BINS + 1, dtype=torch.float64) - HALF) * row.width
    places = torch.searchsorted(edges, torch.tensor(values).double(), right=True) - 1
    assert torch.equal(row.counts, torch.bincount(places, minlength=BINS))
    assert (row.low, row.high) == (min(torch.tensor(values).tolist()), max(torch.tensor(values).tolist()))


def test_a_channels_row_is_the_histogram_of_that_channel() -> None:
    torch.manual_seed(0)
    chunks = [torch.randn(2, 5, 3, 3) * torch.tensor([1.0, 0.0, 1e-6, 300.0, -2.0]).view(1, 5, 1, 1) for _ in range(3)]
    rows = histogram_of(*chunks, axis=1).rows()
    for channel, row in enumerate(rows):
        (alone,) = histogram_of(*(chunk[:, channel] for chunk in chunks)).rows()
        assert torch.equal(row.counts, alone.counts)
        assert (row.width, row.low, row.high) == (alone.width, alone.low, alone.high)


def test_the_bins_reach_no_farther_than_twice_the_greatest_value() -> None:
    (row,) = histogram_of(torch.tensor([1e-3]), torch.tensor([5.0, -3.0])).rows()
    assert 5.0 < HALF * row.width <= 10.0


def test_memory_does_not_grow_with_samples() -> None:
    torch.manual_seed(0)
    found = Histogram(1)
    found.update(torch.randn(1, 8, 16))
    before = {key: tensor.shape for key, tensor in found.state().items()}
    for power in range(20):
        found.update(torch.randn(4, 8, 64) * 2.0**power)
    assert {key: tensor.shape for key, tensor in found.state().items()} == before
    assert int(found.state()["counts"].sum()) == 8 * 16 + 20 * 4 * 8 * 64


def test_a_loaded_histogram_goes_on_where_the_saved_one_stopped() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(100), torch.randn(100) * 9
    loaded = Histogram()
    loaded.load(histogram_of(first).state())
    loaded.update(second)
    assert same(loaded, histogram_of(first, second))
