"""The zoo's cells as a page: one row an architecture, one column a target and scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.zoo_models import ZooModel

Status = Literal["verified", "refused", "failed"]
SIGNS = {"verified": "yes", "refused": "refused", "failed": "**no**"}


@dataclass(frozen=True)
class Cell:
    """One architecture on one target in one scheme.

    Args:
        detail: what was refused or failed.
        compression_db: SQNR of the compressed graph against the original; `lowering_db`: of the file against the graph.
        share: of multiply-accumulates in 8 bits.
    """

    model: str
    target: str
    scheme: str
    status: Status
    detail: str
    compression_db: float = 0.0
    lowering_db: float = 0.0
    share: float = 0.0


def share_verified(cells: Sequence[Cell], scheme: str) -> float:
    """Share of a scheme's cells that are verified; 0 for no cells."""
    chosen = [cell for cell in cells if cell.scheme == scheme]
    return sum(cell.status == "verified" for cell in chosen) / len(chosen) if chosen else 0.0


def coverage_page(cells: Sequence[Cell], models: Mapping[str, ZooModel]) -> str:
    """The page as Markdown; the same cells give the same text."""
    targets = sorted({cell.target for cell in cells})
    schemes = list(dict.fromkeys(cell.scheme for cell in cells))
    by_place = {(cell.model, cell.target, cell.scheme): cell for cell in cells}
    lines = [
        "# Coverage",
        "",
        "Written by `python -m bench.zoo`: small forms of each architecture with random weights go the way of "
        "`edgewright export` to every target. *yes* is a verified file: every output within the tolerance (float32 and "
        "float16) or at most 1 dB noisier than the compressed graph (w8a8), its constants stored as compressed, its "
        "multiply-accumulates in integers where the graph has them so. *refused* names node, operation, reason and way "
        "out. For w8a8 the least share of multiply-accumulates in integers over the targets stands beside.",
        "",
    ]
    for scheme in schemes:
        chosen = [cell for cell in cells if cell.scheme == scheme]
        verified = sum(cell.status == "verified" for cell in chosen)
        refused = sum(cell.status == "refused" for cell in chosen)
        lines.append(
            f"- {scheme}: {verified} of {len(chosen)} verified ({verified / len(chosen):.1%}), {refused} refused, "
            f"{len(chosen) - verified - refused} failed"
        )
    head = [f"{target} {scheme}" for target in targets for scheme in schemes]
    lines += ["", "| architecture | from | " + " | ".join(head) + " | in integers |", "|---" * (len(head) + 3) + "|"]
    for name, model in models.items():
        row = [by_place[name, target, scheme] for target in targets for scheme in schemes]
        shares = [cell.share for cell in row if cell.scheme == "w8a8" and cell.status == "verified"]
        share = f"{min(shares):.0%}" if shares else ""
        lines.append(f"| {name} | {model.source} | " + " | ".join(SIGNS[cell.status] for cell in row) + f" | {share} |")
    told: dict[tuple[str, str, str, str], list[str]] = {}
    for cell in cells:
        if cell.status != "verified":
            told.setdefault((cell.target, cell.scheme, cell.status, " ".join(cell.detail.split())), []).append(
                cell.model
            )
    if told:
        lines += ["", "## Not verified", ""]
        lines += [
            f"- {target}, {scheme}, {', '.join(names)}: {detail}" for (target, scheme, _, detail), names in told.items()
        ]
    return "\n".join(lines) + "\n"
