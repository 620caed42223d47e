"""What mixed precision chose, as a table: the most costly weights or modules first."""

from __future__ import annotations

from dataclasses import dataclass

from edgewright.pipeline.results import PassRecord, ReleaseResult


@dataclass(frozen=True)
class ChoiceTable:
    """One row a weight or module: its name, its scheme, its kB, its share of the expected error, each scheme's cost.

    Where a limit of latency had a say, each scheme's milliseconds follow (`timed`: the schemes that have some), and
    `latency` says what was predicted of the whole. `bars` are the lengths of the cost at the chosen scheme, 0 to 100,
    the largest at 100.
    """

    schemes: tuple[str, ...]
    timed: tuple[str, ...]
    rows: tuple[tuple[str, str, str, str, tuple[str, ...]], ...]
    bars: tuple[int, ...]
    latency: tuple[str, ...]


def choice_table(result: ReleaseResult) -> ChoiceTable | None:
    """None where no pass had a choice."""
    choices = [choice for record in result.recipe for choice in record.choices]
    if not choices:
        return None
    schemes = tuple(dict.fromkeys(name for choice in choices for name in choice.costs))
    timed = tuple(dict.fromkeys(name for choice in choices for name in choice.ms))
    choices.sort(key=lambda choice: (-choice.costs[choice.scheme], choice.weight))
    total = sum(choice.costs[choice.scheme] for choice in choices) or 1.0
    largest = max(choice.costs[choice.scheme] for choice in choices) or 1.0
    rows = tuple(
        (
            choice.weight,
            choice.scheme,
            f"{choice.bytes / 1e3:,.1f} kB",
            f"{choice.costs[choice.scheme] / total:.1%}",
            tuple(
                f"{figures[name]:.2g}" if name in figures else ""
                for names, figures in ((schemes, choice.costs), (timed, choice.ms))
                for name in names
            ),
        )
        for choice in choices
    )
    bars = tuple(round(100 * choice.costs[choice.scheme] / largest) for choice in choices)
    latency = tuple(_latency(record) for record in result.recipe if record.latency_ms)
    return ChoiceTable(schemes, timed, rows, bars, latency)


def _latency(record: PassRecord) -> str:
    found = record.latency_ms
    assert found is not None and found.low is not None and found.high is not None, "a prediction has an interval"
    interval = f"{found.low:.3g} to {found.high:.3g}"
    return f"{found.value:.3g} ms ({interval}) on {record.device}, {record.target}: predicted from the graph"
