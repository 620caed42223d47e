"""What mixed precision chose, as a table: the most costly weights first."""

from __future__ import annotations

from dataclasses import dataclass

from edgewright.pipeline.results import ReleaseResult


@dataclass(frozen=True)
class ChoiceTable:
    """One row a weight: its name, its scheme, its kB, its share of the expected error, and each scheme's cost.

    `bars` are the lengths of the cost at the chosen scheme, 0 to 100, the largest at 100.
    """

    schemes: tuple[str, ...]
    rows: tuple[tuple[str, str, str, str, tuple[str, ...]], ...]
    bars: tuple[int, ...]


def choice_table(result: ReleaseResult) -> ChoiceTable | None:
    """None where no pass had a choice."""
    choices = [choice for record in result.recipe for choice in record.choices]
    if not choices:
        return None
    schemes = tuple(dict.fromkeys(name for choice in choices for name in choice.costs))
    choices.sort(key=lambda choice: (-choice.costs[choice.scheme], choice.weight))
    total = sum(choice.costs[choice.scheme] for choice in choices) or 1.0
    largest = max(choice.costs[choice.scheme] for choice in choices) or 1.0
    rows = tuple(
        (
            choice.weight,
            choice.scheme,
            f"{choice.bytes / 1e3:,.1f} kB",
            f"{choice.costs[choice.scheme] / total:.1%}",
            tuple(f"{choice.costs[name]:.2g}" if name in choice.costs else "" for name in schemes),
        )
        for choice in choices
    )
    return ChoiceTable(schemes, rows, tuple(round(100 * choice.costs[choice.scheme] / largest) for choice in choices))
