"""The report of an export: one self-contained HTML page, for a person."""

from __future__ import annotations

from dataclasses import dataclass

from edgewright.pipeline.report.charts import Chart, dtype_chart, size_chart
from edgewright.pipeline.report.choices import ChoiceTable, choice_table
from edgewright.pipeline.report.drift import DeliveryDrift, drifts
from edgewright.pipeline.report.figures import LEGEND, TITLES, Shown, duration
from edgewright.pipeline.report.latency import LatencyChart, latency_chart
from edgewright.pipeline.report.limits import LimitGroup, limit_groups
from edgewright.pipeline.report.modules import ModuleRow, module_rows
from edgewright.pipeline.report.parity import HEADINGS, ParityRow, anchors, parity_rows
from edgewright.pipeline.report.speed import speeds
from edgewright.pipeline.report.summary import Attention, Fact, Trouble, attention, facts, troubles, verdict
from edgewright.pipeline.report.summary import unverified as unverified_of
from edgewright.pipeline.results import PassRecord, ReleaseResult

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Page:
    """All that the template shows, as text: it formats nothing and decides nothing."""

    result: ReleaseResult
    verdict: str
    standing: str
    facts: tuple[Fact, ...]
    attention: tuple[Attention, ...]
    headings: tuple[str, ...]
    rows: tuple[ParityRow, ...]
    legend: tuple[tuple[str, str, str], ...]
    sizes: Chart
    latency: LatencyChart | None
    dtypes: Chart
    limits: tuple[LimitGroup, ...]
    unlimited: tuple[str, ...]
    drifts: tuple[DeliveryDrift, ...]
    speeds: tuple[tuple[str, tuple[str, ...]], ...]
    unverified: tuple[tuple[str, tuple[str, ...]], ...]
    troubles: tuple[Trouble, ...]
    warnings: tuple[tuple[str, str], ...]
    modules: tuple[ModuleRow, ...]
    choices: ChoiceTable | None
    recipe: tuple[PassRecord, ...]
    stages: tuple[tuple[str, Shown], ...]
    delivery_stages: tuple[tuple[str, tuple[tuple[str, Shown], ...]], ...]


def render_report(result: ReleaseResult) -> str:
    """The page as text: no network, no scripts, no dates of its own; the same result gives the same bytes.

    Every name and reason of `result` is escaped, so a hostile one shows as text.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("edgewright.pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(page=_page(result), titles=TITLES)


def _page(result: ReleaseResult) -> Page:
    sentence, standing = verdict(result)
    anchor = anchors(result)
    return Page(
        result=result,
        verdict=sentence,
        standing=standing,
        facts=facts(result),
        attention=attention(result, anchor),
        headings=HEADINGS,
        rows=parity_rows(result),
        legend=LEGEND,
        sizes=size_chart(result),
        latency=latency_chart(result),
        dtypes=dtype_chart(result),
        limits=limit_groups(result),
        unlimited=tuple(delivery.name for delivery in result.deliveries if not delivery.checks),
        drifts=drifts(result),
        speeds=speeds(result),
        unverified=tuple((delivery.name, unverified_of(delivery)) for delivery in result.deliveries),
        troubles=troubles(result),
        warnings=tuple(warning for record in result.recipe for warning in record.warnings),
        modules=module_rows(result),
        choices=choice_table(result),
        recipe=result.recipe,
        stages=_durations(result.seconds),
        delivery_stages=tuple((item.name, _durations(item.seconds)) for item in result.deliveries if item.seconds),
    )


def _durations(seconds: dict[str, float]) -> tuple[tuple[str, Shown], ...]:
    total = (("total", sum(seconds.values())),) if len(seconds) > 1 else ()
    return tuple((stage, duration(value)) for stage, value in (*seconds.items(), *total))
