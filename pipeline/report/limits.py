"""The limits of a release: each with its figure, what is left of it, and how it came out."""

from __future__ import annotations

from dataclasses import dataclass

from edgewright.pipeline.report.figures import Shown, exact, number, plain_unit, round_text, shown, unit_text
from edgewright.pipeline.results import Check, ReleaseResult


@dataclass(frozen=True)
class Limit:
    """A row: `detail` is what the unit says beyond a unit, such as "dB against the original"."""

    name: str
    detail: str
    figure: Shown
    limit: Shown
    margin: Shown
    outcome: str
    advice: str


@dataclass(frozen=True)
class LimitGroup:
    """The limits of a delivery."""

    delivery: str
    status: str
    limits: tuple[Limit, ...]


def limit_groups(result: ReleaseResult) -> tuple[LimitGroup, ...]:
    return tuple(
        LimitGroup(item.name, item.status, tuple(_limit(check) for check in item.checks))
        for item in result.deliveries
        if item.checks
    )


def check_name(check: Check) -> str:
    return check.name.replace("_", " ")


def is_at_most(check: Check) -> bool:
    """Whether the limit is an upper one: its margin is `limit - figure`, of a lower one `figure - limit`.

    At the limit itself neither tells: decibels and shares then have lower limits, all else upper ones.
    """
    left = check.limit - check.figure.value
    upper, lower = abs(check.margin - left), abs(check.margin + left)
    return plain_unit(check.unit) not in ("db", "share") if upper == lower else upper < lower


def margin_text(check: Check) -> str:
    """What is left, or by how much it was missed."""
    if check.margin < 0:
        return f"{unit_text(-check.margin, check.unit)} {'over' if is_at_most(check) else 'short'}"
    return f"{unit_text(check.margin, check.unit)} left"


def limit_text(check: Check) -> str:
    return f"at {'most' if is_at_most(check) else 'least'} {round_text(check.limit, check.unit)}"


def _limit(check: Check) -> Limit:
    share = f", {number(abs(check.margin / check.limit) * 100, 2)} % of the limit" if check.limit else ""
    return Limit(
        name=check_name(check),
        detail=check.unit if " " in check.unit.strip() else "",
        figure=shown(check.figure, check.unit),
        limit=Shown(limit_text(check), exact(check.limit, check.unit)),
        margin=Shown(margin_text(check), exact(check.margin, check.unit) + share),
        outcome=check.outcome,
        advice=check.advice,
    )
