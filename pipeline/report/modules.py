"""What each module got, as a table."""

from __future__ import annotations

from dataclasses import dataclass

from edgewright.pipeline.report.figures import TIMES, bytes_text, share_text
from edgewright.pipeline.results import ReleaseResult


@dataclass(frozen=True)
class ModuleRow:
    """A module: its schemes, its bytes, their share of float32's, its share of the error, and that as 0 to 100."""

    module: str
    schemes: str
    size: str
    of_float32: str
    error: str
    bar: int


def module_rows(result: ReleaseResult) -> tuple[ModuleRow, ...]:
    return tuple(
        ModuleRow(
            f"{record.part}: {record.module}" if record.part else record.module,
            ", ".join(f"{scheme} {TIMES} {count}" if count > 1 else scheme for scheme, count in record.schemes.items()),
            bytes_text(record.bytes),
            share_text(record.bytes / record.float32_bytes) if record.float32_bytes else "",
            share_text(record.error_share, 2),
            round(100 * record.error_share),
        )
        for record in result.modules
    )
