"""Hold a delivery's figures against its limits."""

from __future__ import annotations

from collections.abc import Iterable

from edgewright.pipeline.results import Check, Figure, Outcome, Status


def upper_limit(name: str, unit: str, figure: Figure, limit: float, advice: str) -> Check:
    """A figure that may be at most `limit`.

    A prediction passes when its whole interval is under the limit, misses when the whole interval is over it, and is
    undecided between.
    """
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    outcome: Outcome = "passed" if high <= limit else "missed" if low > limit else "undecided"
    return Check(
        name=name,
        unit=unit,
        figure=figure,
        limit=limit,
        outcome=outcome,
        margin=limit - figure.value,
        advice="" if outcome == "passed" else advice,
    )


def lower_limit(name: str, unit: str, figure: Figure, limit: float, advice: str) -> Check:
    """A measured figure that has to be at least `limit`."""
    outcome: Outcome = "passed" if figure.value >= limit else "missed"
    return Check(
        name=name,
        unit=unit,
        figure=figure,
        limit=limit,
        outcome=outcome,
        margin=figure.value - limit,
        advice="" if outcome == "passed" else advice,
    )


def status_of(checks: Iterable[Check], strict: bool) -> Status:
    """The worst outcome; under `strict` an undecided one is a miss."""
    outcomes = {check.outcome for check in checks}
    if "missed" in outcomes or (strict and "undecided" in outcomes):
        return "missed"
    return "undecided" if "undecided" in outcomes else "passed"


def describe(check: Check) -> str:
    """One sentence: figure, limit, margin."""
    figure = check.figure
    interval = f" [{figure.low:.4g} to {figure.high:.4g}]" if figure.low is not None and figure.high is not None else ""
    text = f"{check.name} {check.outcome}: {figure.value:.4g}{interval} {check.unit} ({figure.provenance})"
    return f"{text}, limit {check.limit:.4g} {check.unit}, margin {check.margin:.4g}" + (
        f"; {check.advice}" if check.advice else ""
    )
