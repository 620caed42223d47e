"""Where missed deliveries drift, as text."""

from __future__ import annotations

from dataclasses import dataclass

from edgewright.pipeline.report.figures import db_text
from edgewright.pipeline.results import DriftLayer, ReleaseResult


@dataclass(frozen=True)
class DriftRow:
    layer: str
    op: str
    sqnr: str
    inputs: str
    own: str
    verdict: str


@dataclass(frozen=True)
class DeliveryDrift:
    delivery: str
    looked_at: str
    rows: tuple[DriftRow, ...]
    notes: tuple[str, ...]


def drifts(result: ReleaseResult) -> tuple[DeliveryDrift, ...]:
    """One entry for each delivery that was looked into."""
    return tuple(
        DeliveryDrift(
            delivery.name,
            f"{len(delivery.drift.curve)} values compared",
            tuple(_row(layer) for layer in delivery.drift.layers),
            delivery.drift.notes,
        )
        for delivery in result.deliveries
        if delivery.drift is not None
    )


def _row(layer: DriftLayer) -> DriftRow:
    where = f"{layer.module} ({layer.node})" if layer.module else layer.node
    own = "not known" if layer.own_db is None else db_text(layer.own_db)
    return DriftRow(where, layer.op, db_text(layer.sqnr_db), db_text(layer.inputs_db), own, _verdict(layer))


def _verdict(layer: DriftLayer) -> str:
    if layer.faulty is None:
        return "not lowered alone"
    if not layer.faulty:
        return "computes right: it makes the noise of its inputs larger"
    if layer.own_steps is not None:
        return f"computes other numbers: off by up to {layer.own_steps:.3g} quantization steps"
    return "computes other numbers"
