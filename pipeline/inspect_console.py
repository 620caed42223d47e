"""What `edgewright inspect` prints: tables for a person, JSON for a program."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from edgewright.device_profiles.placement import Placement, Word
    from edgewright.targets.base import Inspection, Operation
    from edgewright.targets.findings import TensorFact

SHOWN = 10  # rows of islands and layout changes; JSON has them all
LONGEST_NAME = 60


def inspection_json(found: Inspection, placement: Placement | None = None) -> str:
    """Everything, with what is computed from it."""
    content = dataclasses.asdict(found) | {"macs": found.macs, "low_precision_share": found.low_precision_share}
    if placement is not None:
        content["placement"] = dataclasses.asdict(placement)
    return json.dumps(content, indent=2)


def print_inspection(console: Console, found: Inspection, placement: Placement | None = None) -> None:
    console.print(escape(found.format))
    _print_versions(console, found)
    _print_operations(console, "in the file", found.operations)
    if found.executed is not None:
        _print_operations(console, "as executed here", found.executed)
    for dtype, size in found.bytes_by_dtype.items():
        console.print(f"{size:>14,} bytes of {dtype}")
    console.print(f"{found.low_precision_share:.1%} of {found.macs:,} multiply-accumulates in 8 bits or fewer")
    console.print(f"{found.peak_activation_bytes:,} bytes of activations alive at most")
    _print_islands(console, found)
    _print_layout(console, found)
    _print_tensors(console, "largest constants", found.largest_constants)
    _print_tensors(console, "largest activations", found.largest_activations)
    if found.left_delegate is not None and placement is None:
        _print_left(console, found)
    if placement is not None:
        _print_placement(console, placement)
    for note in found.notes:
        console.print(f"[yellow]note[/] {escape(note)}")


def _print_versions(console: Console, found: Inspection) -> None:
    more = [stated for name, version in found.versions.items() if (stated := f"{name} {version}") not in found.format]
    if more:
        console.print(escape(", ".join(more)))
    for reader in found.readers:
        oldest = f"{reader.runtime} {reader.version}" if reader.version else f"{reader.runtime}: not known"
        console.print(f"oldest runtime: {escape(oldest)} ({escape(reader.because)}) [dim]{escape(reader.source)}[/]")


def _print_operations(console: Console, title: str, operations: Sequence[Operation]) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    macs: Counter[tuple[str, str]] = Counter()
    for operation in operations:
        counts[operation.op, operation.compute] += 1
        macs[operation.op, operation.compute] += operation.macs
    table = _table(title, "operation", "computes in", numbers=("count", "MACs"))
    for (op, compute), count in sorted(counts.items(), key=lambda item: -macs[item[0]]):
        products = macs[op, compute]
        table.add_row(escape(op), escape(compute), str(count), f"{products:,}" if products else "")
    console.print(table)


def _print_islands(console: Console, found: Inspection) -> None:
    where = "as executed here" if found.islands_executed else "in the file"
    inside = sum(len(island.operations) for island in found.islands)
    console.print(f"{len(found.islands)} float islands between quantized values {where}, {inside} operations")
    if not found.islands:
        return
    table = _table("float islands", "operations", "first", numbers=("in", "out", "MACs"))
    for island in found.islands[:SHOWN]:
        ops = ", ".join(f"{op} x{count}" if count > 1 else op for op, count in island.ops.items())
        ops += " (open: float goes in or out too)" if island.open else ""
        macs = f"{island.macs:,}" if island.macs else ""
        table.add_row(escape(ops), escape(_short(island.operations[0])), str(island.entries), str(island.exits), macs)
    console.print(table)
    _print_rest(console, len(found.islands))


def _print_layout(console: Console, found: Inspection) -> None:
    changes = found.layout_changes
    moved = sum(change.bytes for change in changes)
    console.print(f"{len(changes)} transposes and reorders for the layout, {moved:,} bytes moved")
    if not changes:
        return
    table = _table("for the layout", "operation", "name", "why", numbers=("bytes",))
    for change in changes[:SHOWN]:
        table.add_row(escape(change.op), escape(_short(change.name)), escape(_short(change.why)), f"{change.bytes:,}")
    console.print(table)
    _print_rest(console, len(changes))


def _print_tensors(console: Console, title: str, tensors: Sequence[TensorFact]) -> None:
    if not tensors:
        return
    table = _table(title, "name", "dtype", "shape", numbers=("bytes",))
    for tensor in tensors:
        shape = " x ".join("?" if size < 0 else str(size) for size in tensor.shape)
        table.add_row(escape(_short(tensor.name)), tensor.dtype, shape, f"{tensor.bytes:,}")
    console.print(table)


def _print_left(console: Console, found: Inspection) -> None:
    left = set(found.left_delegate or ())
    kinds = Counter(operation.op for operation in found.operations if operation.name in left)
    names = ", ".join(f"{op} x{count}" if count > 1 else op for op, count in sorted(kinds.items()))
    console.print(f"{len(left)} operations leave the runtime's delegate here" + escape(f": {names}" if names else ""))


def _print_placement(console: Console, placement: Placement) -> None:
    console.print(f"{escape(placement.delegate)} [dim]{escape(placement.source)}[/]")
    if not placement.rows:
        return
    words: tuple[tuple[Word, str], ...] = (("takes", "stay"), ("leaves", "leave it"), ("unknown", "are unknown"))
    counts = ", ".join(
        f"{placement.count(word)} operations {text} ({placement.macs(word):,} MACs)" for word, text in words
    )
    console.print(counts)
    table = _table("not shown to stay", "operation", "computes in", "verdict", "why", numbers=("count", "MACs"))
    for row in placement.rows:
        if row.verdict != "takes":
            macs = f"{row.macs:,}" if row.macs else ""
            word = "[red]leaves[/]" if row.verdict == "leaves" else "unknown"
            table.add_row(escape(row.op), row.compute, word, escape(row.reason), str(row.count), macs)
    if table.row_count:
        console.print(table)


def _table(title: str, *texts: str, numbers: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left")
    for column in texts:
        table.add_column(column)
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def _print_rest(console: Console, count: int) -> None:
    if count > SHOWN:
        console.print(f"[dim]and {count - SHOWN} more: --json shows all[/]")


def _short(name: str) -> str:
    """The end of a long name: converters put the module's path first."""
    return name if len(name) <= LONGEST_NAME else "..." + name[3 - LONGEST_NAME :]
