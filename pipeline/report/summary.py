"""What a release manager reads first: the verdict, what needs attention, and what was not shown."""

from __future__ import annotations

from dataclasses import dataclass

from edgewright.pipeline.report.figures import bytes_text, exact, interval_text
from edgewright.pipeline.report.limits import check_name, limit_text, margin_text
from edgewright.pipeline.results import Check, DeliveryResult, RefusalRecord, ReleaseResult

ORDER = ("missed", "undecided", "failed", "refused")


@dataclass(frozen=True)
class Fact:
    """A line of the header; `value` is None where it is not known, and `title` then says why."""

    label: str
    value: str | None
    title: str = ""
    code: bool = False


@dataclass(frozen=True)
class Attention:
    """A delivery that did not pass, and why in a sentence."""

    anchor: str
    name: str
    status: str
    why: str


@dataclass(frozen=True)
class Trouble:
    """A delivery that failed, was refused or missed a limit, with the reason and every refusal."""

    name: str
    target: str
    status: str
    reason: str
    refusals: tuple[RefusalRecord, ...]


def verdict(result: ReleaseResult) -> tuple[str, str]:
    """The outcome in a line, and the status that colours it."""
    total = len(result.deliveries)
    if not total:
        return "Nothing was delivered: the release names no delivery", "undecided"
    counts = {status: sum(delivery.status == status for delivery in result.deliveries) for status in ORDER}
    others = [f"{count} {status}" for status, count in counts.items() if count]
    passed = f"{total - sum(counts.values())} of {total} {'delivery' if total == 1 else 'deliveries'} passed"
    if result.missed_steps:
        others.append(f"{len(result.missed_steps)} limit of the recipe missed")
    if not others:
        return passed, "passed"
    only_undecided = len(others) == 1 and counts["undecided"] and not result.missed_steps
    return f"{passed}: {', '.join(others)}", "undecided" if only_undecided else "missed"


def facts(result: ReleaseResult) -> tuple[Fact, ...]:
    return (
        Fact("Model", result.source, code=True),
        Fact("Model digest", *_short(result.model_digest), code=True),
        Fact("Checkpoint", *_hash(result.checkpoint_sha256, "no checkpoint was named"), code=True),
        Fact("Calibration data", *_hash(result.calibration_sha256, "no data was used"), code=True),
        Fact("Parameters", f"{result.parameters:,}"),
        Fact("Float32 size", bytes_text(result.float32_bytes), exact(result.float32_bytes, "bytes")),
        Fact("edgewright", result.edgewright),
    )


def attention(result: ReleaseResult, anchors: dict[int, str]) -> tuple[Attention, ...]:
    return tuple(
        Attention(anchors[place], delivery.name, delivery.status, _why(delivery))
        for place, delivery in enumerate(result.deliveries)
        if delivery.status != "passed"
    )


def troubles(result: ReleaseResult) -> tuple[Trouble, ...]:
    """Deliveries that stopped for another reason than a limit: those stand among the limits."""
    return tuple(
        Trouble(item.name, item.target, item.status, _own_reason(item), item.refusals)
        for item in result.deliveries
        if item.status in ("failed", "refused") or item.refusals or (item.reason and not _open_checks(item))
    )


def unverified(delivery: DeliveryResult) -> tuple[str, ...]:
    """What was not shown of a delivery; of one without an artifact, everything."""
    if delivery.size_bytes is None and delivery.status in ("failed", "refused"):
        return ("There is no file: nothing of this delivery was verified.", *delivery.not_verified)
    return delivery.not_verified


def _why(delivery: DeliveryResult) -> str:
    """A sentence: the limits that did not pass, what the target refused, or the first line of the reason."""
    if open_checks := _open_checks(delivery):
        return "; ".join(_open_check(check) for check in open_checks)
    if delivery.refusals:
        count = len(delivery.refusals)
        several = f"{count} refusals, the first: " if count > 1 else ""
        return several + delivery.refusals[0].reason
    return delivery.reason.strip().partition("\n")[0] or "no reason was recorded"


def _own_reason(delivery: DeliveryResult) -> str:
    """The whole reason, unless it only repeats the refusals, which are shown beside it."""
    if delivery.refusals and all(refusal.reason in delivery.reason for refusal in delivery.refusals):
        return ""
    return delivery.reason or ("" if delivery.refusals else _why(delivery))


def _open_checks(delivery: DeliveryResult) -> list[Check]:
    return [check for check in delivery.checks if check.outcome != "passed"]


def _open_check(check: Check) -> str:
    """An interval that holds the limit is undecided: both ends say more than a margin does."""
    figure = check.figure
    if check.outcome == "undecided" and figure.low is not None and figure.high is not None:
        interval = interval_text(figure.low, figure.high, check.unit)
        return f"{check_name(check)} undecided: predicted {interval}, {limit_text(check)}"
    return f"{check_name(check)} {check.outcome}: {margin_text(check)}, {limit_text(check)}"


def _hash(value: str | None, absent: str) -> tuple[str | None, str]:
    return (None, absent) if value is None else _short(value)


def _short(digest: str) -> tuple[str, str]:
    return digest.removeprefix("sha256:")[:12], digest
