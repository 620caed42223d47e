"""What calibration found odd, as data: dead ranges, dead and saturating channels, inputs that were hardly covered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewright.calibration.extremes import Extremes
from edgewright.calibration.ranges import Levels
from edgewright.calibration.statistics import ValueStatistics

LEAST_SHARE = 1 / 16  # of an encoding's steps, within two standard deviations: below, less than 23 dB are left
LEAST_COVER = 0.5  # of an input's declared range
BEYOND = 0.25  # of the range's width: a channel that reaches farther out saturates
SLACK = 0.01  # of the declared range: rounding in the user's own preprocessing


@dataclass(frozen=True)
class Caution:
    """Something that the user should look at: at which value, and what."""

    node: str
    text: str


def value_cautions(
    name: str, found: ValueStatistics, scale: float, zero_point: int, levels: Levels
) -> tuple[Caution, ...]:
    """Of an activation with one encoding."""
    low, high = float(found.extremes.low), float(found.extremes.high)
    if low > high:
        return (Caution(name, "was never computed: no calibration data reached it"),)
    if low == high:
        return (Caution(name, f"is {low:.4g} in all calibration data: its encoding holds for no other value"),)
    texts = []
    steps = 4 * found.moments.deviation / scale
    if steps < LEAST_SHARE * levels.steps:
        texts.append(
            f"two standard deviations span {steps:.1f} of its {levels.steps + 1} steps: few values reach out to "
            f'{low:.4g} and {high:.4g}; try observer = "mse" or "percentile"'
        )
    if found.channels is not None:
        ends = (levels.quant_min - zero_point) * scale, (levels.quant_max - zero_point) * scale
        texts += channel_texts(found.channels, *ends)
    return tuple(Caution(name, text) for text in texts)


def channel_texts(channels: Extremes, least: float, greatest: float) -> list[str]:
    """Of the channels of an activation whose encoding reaches from `least` to `greatest`."""
    texts = []
    dead = torch.nonzero(channels.low == channels.high).flatten().tolist()
    total = channels.low.numel()
    if dead:
        texts.append(f"{_some(dead, total)} constant in all calibration data")
    reach = BEYOND * (greatest - least)
    loud = (channels.low < least - reach) | (channels.high > greatest + reach)
    if bool(loud.any()):
        far = float(torch.maximum(channels.high.abs(), channels.low.abs())[loud].max())
        places = torch.nonzero(loud).flatten().tolist()
        texts.append(
            f"{_some(places, total)} clipped: up to {far:.4g}, the encoding goes from {least:.4g} to {greatest:.4g}"
        )
    return texts


def weight_cautions(name: str, extremes: Extremes) -> tuple[Caution, ...]:
    """Of a weight with an encoding for each output channel."""
    zero = torch.nonzero((extremes.low == 0) & (extremes.high == 0)).flatten().tolist()
    return (Caution(name, f"{_some(zero, extremes.low.numel())} all zero"),) if zero else ()


def input_cautions(
    batches: Iterable[Mapping[str, Tensor]], declared: Mapping[str, tuple[float, float]]
) -> tuple[Caution, ...]:
    """Of the calibration data against the ranges that the inputs have by their preprocessing."""
    seen = {name: Extremes() for name in declared}
    for batch in batches:
        for name, extremes in seen.items():
            if batch[name].numel():
                extremes.update(batch[name])
    return tuple(
        Caution(name, text)
        for name, (low, high) in declared.items()
        if (text := _cover_text(float(seen[name].low), float(seen[name].high), low, high))
    )


def _cover_text(low: float, high: float, least: float, greatest: float) -> str:
    if low > high:
        return ""
    declared = f"the declared range from {least:.4g} to {greatest:.4g}"
    reached = f"the calibration data reach from {low:.4g} to {high:.4g}, {declared}"
    slack = SLACK * (greatest - least)
    if low < least - slack or high > greatest + slack:
        return f"{reached}: was it preprocessed as declared?"
    share = (min(high, greatest) - max(low, least)) / (greatest - least)
    return f"{reached}: {share:.0%} of it is covered" if share < LEAST_COVER else ""


def _some(places: Sequence[int], total: int) -> str:
    shown = ", ".join(map(str, places[:5])) + (", ..." if len(places) > 5 else "")
    return f"{len(places)} of {total} channels ({shown}) {'is' if len(places) == 1 else 'are'}"
