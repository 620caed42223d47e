"""Observers: the range that each one sets, against definitions, brute force and PyTorch's own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchao.quantization.pt2e.observer import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
)

from edgewright.calibration import ranges
from edgewright.calibration.histogram import HALF, Histogram
from edgewright.calibration.observers import OBSERVERS, make_observer
from edgewright.calibration.ranges import Levels
from edgewright.errors import RecipeError
from edgewright.pipeline.passes.observe_values import EPSILON, PerChannelObserver, PerTensorObserver

EXACT = [name for name in OBSERVERS if name != "moving-average"]  # of those, the order of the data is a part
BOTH = [Levels(), Levels(symmetric=True)]
TENSOR = {False: torch.per_tensor_affine, True: torch.per_tensor_symmetric}
CHANNEL = {False: torch.per_channel_affine, True: torch.per_channel_symmetric}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def range_of(name: str, levels: Levels, *chunks: Tensor, axis: int | None = None) -> tuple[Tensor, Tensor]:
    observer = make_observer(name, levels, axis)
    for chunk in chunks:
        observer.update(chunk)
    return observer.range()


def rounded(values: Tensor, levels: Levels, low: Tensor, high: Tensor) -> Tensor:
    scale, zero_point = levels.encode(low.double(), high.double())
    integers = (torch.round(values.double() / scale) + zero_point).clamp(levels.quant_min, levels.quant_max)
    return (integers - zero_point) * scale


def error(values: Tensor, levels: Levels, low: Tensor, high: Tensor) -> float:
    return float((rounded(values, levels, low, high) - values).square().mean())


def heavy_tailed(count: int, seed: int = 0) -> Tensor:
    normal, other = (torch.randn(count, generator=seeded(seed + place)) for place in range(2))
    return normal * torch.exp(1.2 * other)


# What holds for all


@pytest.mark.parametrize("levels", BOTH)
@pytest.mark.parametrize("name", EXACT)
def test_streaming_in_chunks_equals_all_at_once(name: str, levels: Levels) -> None:
    values = heavy_tailed(5000)
    assert range_of(name, levels, *values.split(37)) == range_of(name, levels, values)


@pytest.mark.parametrize("levels", BOTH)
@pytest.mark.parametrize("name", OBSERVERS)
def test_ranges_per_channel_are_those_of_each_channel(name: str, levels: Levels) -> None:
    chunks = [
        torch.randn(3, 4, 50, generator=seeded(seed)) * torch.tensor([1.0, 0.01, 0.0, 40.0])[:, None] + 0.3
        for seed in range(3)
    ]
    low, high = range_of(name, levels, *chunks, axis=1)
    assert low.shape == high.shape == (4,)
    for channel in range(4):
        alone = range_of(name, levels, *(chunk[:, channel] for chunk in chunks))
        assert (low[channel], high[channel]) == alone


@settings(deadline=None, max_examples=200)
@example("entropy", False, [-1.0, -2.0])
@example("percentile", True, [-1.0, -1.125])
@given(
    st.sampled_from(sorted(OBSERVERS)),
    st.booleans(),
    st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=40),
)
def test_a_range_holds_zero_and_goes_no_farther_than_the_values(
    name: str, symmetric: bool, values: list[float]
) -> None:
    low, high = (float(end) for end in range_of(name, Levels(symmetric=symmetric), torch.tensor(values)))
    assert min(*values, 0.0) <= low <= 0.0 <= high <= max(*values, 0.0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-12])
@pytest.mark.parametrize("name", OBSERVERS)
def test_a_constant_activation_has_a_valid_encoding_that_gives_it_back(
    name: str, value: float, symmetric: bool
) -> None:
    observer = PerTensorObserver(kind=name, dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=TENSOR[symmetric])
    observer(torch.full((4, 4), value))
    scale, zero_point = observer.calculate_qparams()
    assert float(scale) >= EPSILON
    assert -128 <= int(zero_point) <= 127
    integer = (torch.round(torch.tensor(value) / scale) + zero_point).clamp(-128, 127)
    assert float((integer - zero_point) * scale) == pytest.approx(value, rel=0.005, abs=EPSILON)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", OBSERVERS)
def test_an_all_zero_channel_has_a_scale_above_zero(name: str, symmetric: bool) -> None:
    observer = PerChannelObserver(
        kind=name, dtype=torch.int8, quant_min=-127, quant_max=127, qscheme=CHANNEL[symmetric], ch_axis=0
    )
    observer(torch.stack([torch.zeros(9), torch.linspace(-1, 1, 9)]))
    scale, zero_point = observer.calculate_qparams()
    assert scale.shape == zero_point.shape == (2,)
    assert bool((scale >= EPSILON).all())
    assert int(zero_point[0]) in (0, -127)


@pytest.mark.parametrize("name", OBSERVERS)
def test_the_state_of_an_observer_does_not_grow_with_samples(name: str) -> None:
    observer = make_observer(name, Levels())
    observer.update(torch.randn(10, generator=seeded(0)))
    before = {key: tensor.shape for key, tensor in observer.statistic.state().items()}
    for seed in range(30):
        observer.update(torch.randn(1000, generator=seeded(seed)) * 1.5**seed)
    assert {key: tensor.shape for key, tensor in observer.statistic.state().items()} == before


def test_an_unknown_observer_is_refused_with_the_names() -> None:
    with pytest.raises(RecipeError, match="unknown observer") as caught:
        make_observer("histogram", Levels())
    assert "minmax, moving-average, percentile, mse, entropy" in str(caught.value)
    with pytest.raises(RecipeError, match="did you mean 'entropy'"):
        make_observer("entrpy", Levels())


@pytest.mark.parametrize("percent", [50.0, 100.1, math.nan])
def test_a_percentile_that_leaves_no_range_is_refused(percent: float) -> None:
    with pytest.raises(RecipeError, match="above 50, at most 100"):
        make_observer("percentile", Levels(), percent=percent)


# min-max and moving average: PyTorch's own, to the bit


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("kind", "theirs"), [("minmax", MinMaxObserver), ("moving-average", MovingAverageMinMaxObserver)]
)
def test_encodings_per_tensor_are_those_of_torchao(kind: str, theirs: type, symmetric: bool) -> None:
    spec = {"dtype": torch.int8, "quant_min": -128, "quant_max": 127, "qscheme": TENSOR[symmetric]}
    for seed in range(20):
        mine, other = PerTensorObserver(kind=kind, **spec), theirs(eps=EPSILON, **spec)
        for step in range(5):
            values = heavy_tailed(300, 10 * seed + step) * 10.0 ** (seed % 7 - 3) + seed % 3
            mine(values), other(values)
        for ours, reference in zip(mine.calculate_qparams(), other.calculate_qparams(), strict=True):
            assert torch.equal(ours, reference)
            assert ours.dtype == reference.dtype


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_encodings_per_channel_are_those_of_torchao(axis: int, symmetric: bool) -> None:
    spec = {
        "dtype": torch.int8,
        "quant_min": -127,
        "quant_max": 127,
        "qscheme": CHANNEL[symmetric],
        "ch_axis": axis,
    }
    mine, other = PerChannelObserver(**spec), PerChannelMinMaxObserver(eps=EPSILON, **spec)
    for seed in range(3):
        values = torch.randn(4, 6, 3, 3, generator=seeded(seed)) + 0.5
        mine(values), other(values)
    for ours, reference in zip(mine.calculate_qparams(), other.calculate_qparams(), strict=True):
        assert torch.equal(ours, reference)


# Percentile


@settings(deadline=None, max_examples=20)
@given(st.floats(90.0, 100.0), st.floats(0.01, 100.0))
def test_a_percentile_of_evenly_spread_values_is_that_share_of_the_range(percent: float, width: float) -> None:
    values = torch.linspace(-width, width, 20001)
    for levels, share in ((Levels(), 2 * percent / 100 - 1), (Levels(symmetric=True), percent / 100)):
        observer = make_observer("percentile", levels, percent=percent)
        observer.update(values)
        low, high = observer.range()
        assert float(high) == pytest.approx(share * width, abs=2e-3 * width)
        assert float(low) == pytest.approx(-share * width, abs=2e-3 * width)


def test_a_percentile_of_normal_values_is_the_quantile() -> None:
    values = torch.randn(400_000, generator=seeded(0))
    low, high = range_of("percentile", Levels(), values)
    assert float(high) == pytest.approx(3.719, abs=0.1)
    assert float(low) == pytest.approx(-3.719, abs=0.1)
    observer = make_observer("percentile", Levels(symmetric=True), percent=99.0)
    observer.update(values)
    assert float(observer.range()[1]) == pytest.approx(2.576, abs=0.02)


# Mean squared error


@pytest.mark.parametrize("levels", [*BOTH, Levels(-8, 7), Levels(-8, 7, symmetric=True)])
def test_mse_has_less_error_than_minmax_on_heavy_tails(levels: Levels) -> None:
    values = heavy_tailed(50_000)
    mine = error(values, levels, *range_of("mse", levels, values))
    assert mine < 0.95 * error(values, levels, *range_of("minmax", levels, values))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_finds_a_range_as_good_as_a_search_over_the_values_themselves(
    bits: int, symmetric: bool, sign: int
) -> None:
    levels = Levels(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, symmetric)
    values = torch.randn(20_000, generator=seeded(1)).relu() * sign
    ends = torch.stack([values.min(), values.max()])
    best = min(error(values, levels, *(ends * step / 200)) for step in range(1, 201))
    assert error(values, levels, *range_of("mse", levels, values)) <= 1.03 * best


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.booleans(), st.sampled_from([4, 8]), st.floats(0.1, 1.0))
def test_the_expected_error_of_a_range_is_that_of_the_values(
    seed: int, symmetric: bool, bits: int, share: float
) -> None:
    levels = Levels(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, symmetric)
    values = torch.randn(20_000, generator=seeded(seed)) + 0.5
    histogram = Histogram()
    histogram.update(values)
    (row,) = histogram.rows()
    first, last = row.span
    edges = (torch.arange(first, last + 1, dtype=torch.float64) - HALF) * row.width
    low, high = values.min() * share, values.max() * share
    (expected,) = ranges.squared_errors(
        edges, row.counts[first:last].double(), low[None].double(), high[None].double(), levels
    )
    assert float(expected) == pytest.approx(error(values, levels, low, high), rel=0.05)


# Entropy


def divergence(counts: Tensor, start: int, end: int, levels: int) -> float:
    """KL(P || Q) as the source spells it out, bin by bin."""
    inside = counts[start:end].clone()
    reference = inside.clone()
    reference[0] += counts[:start].sum()
    reference[-1] += counts[end:].sum()
    spread = torch.zeros_like(inside)
    for level in range(levels):
        first, last = (place * (end - start) // levels for place in (level, level + 1))
        filled = (inside[first:last] > 0).double()
        if bool(filled.any()):
            spread[first:last] = filled * inside[first:last].sum() / filled.sum()
    kept = spread.sum()
    spread[(spread == 0) & (reference > 0)] = ranges.EMPTY
    shares, model = reference / counts.sum(), spread / kept
    there = shares > 0
    return float((shares[there] * torch.log(shares[there] / model[there])).sum())


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.floats(0.05, 1.0))
def test_the_divergence_from_running_sums_is_the_one_spelled_out(seed: int, filled: float) -> None:
    generator = seeded(seed)
    counts = torch.randint(1, 50, (400,), generator=generator).double()
    counts *= torch.rand(400, generator=generator) < filled
    counts[200] += 1
    starts, ends = torch.tensor([0, 100, 170]), torch.tensor([400, 260, 203])
    found = ranges._divergences(counts, starts, ends, 16)
    for value, start, end in zip(found, starts, ends, strict=True):
        if bool(counts[start:end].any()):
            assert float(value) == pytest.approx(divergence(counts, int(start), int(end), 16), abs=1e-9)


@pytest.mark.parametrize("levels", BOTH)
def test_entropy_clips_a_lone_outlier(levels: Levels) -> None:
    values = torch.cat([torch.randn(100_000, generator=seeded(0)), torch.tensor([40.0])])
    low, high = range_of("entropy", levels, values)
    assert 3.0 < float(high) < 12.0
    assert float(low) < -3.0
    assert range_of("minmax", levels, values)[1] == 40.0


def test_entropy_keeps_all_of_evenly_spread_values() -> None:
    values = torch.rand(200_000, generator=seeded(0)) * 4 - 2
    low, high = range_of("entropy", Levels(), values)
    assert float(high - low) > 3.9
