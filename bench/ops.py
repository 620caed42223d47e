"""Replay PyTorch's own operator samples as one-operation models through every target, in float32.

Each cell (an operator on a target) counts its samples: verified against PyTorch, refused by name, failed in a
converter, wrong, or crashed. The core ATen operators are replayed with the dtypes that the targets have.

    python -m bench.ops                               all; writes docs/operators.md
    python -m bench.ops --operators add,where         some
    python -m bench.ops --targets onnx --samples 8    more samples of each, on one target
    exit code 1: a result was wrong, or a process crashed
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.ops_cells import CRASHED, FAILED, REFUSED, VERIFIED, WRONG, Outcome
from bench.ops_samples import LEFT_OUT, Case, cases_of, core_operators, replayed_operators
from bench.ops_workers import replay
from edgewright.targets import get_target, target_names

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operators.md"
SAMPLES = 2
STATUSES = (VERIFIED, REFUSED, FAILED, WRONG, CRASHED)
BAD = (WRONG, CRASHED)
SIDE_BY_SIDE = 2  # targets at once, each in a process of its own

Outcomes = Mapping[tuple[Case, str], Outcome]


def replay_all(cases: Sequence[Case], targets: Sequence[str], console: Console) -> dict[tuple[Case, str], Outcome]:
    """Every case on every target."""
    found: dict[tuple[Case, str], Outcome] = {}
    with Progress(console=console, transient=True) as progress, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:

        def follow(target: str) -> None:
            bar = progress.add_task(target, total=len(cases))
            for case, outcome in zip(cases, replay(cases, target), strict=True):
                found[case, target] = outcome
                progress.advance(bar)

        list(pool.map(follow, targets))
    return found


def operators_of(outcomes: Outcomes) -> list[str]:
    return sorted({case.operator for case, _ in outcomes})


def cell(outcomes: Outcomes, operator: str, target: str) -> str:
    """Such as "7 of 7", or "5 of 7, 2 refused"."""
    statuses = Counter(one.status for (case, at), one in outcomes.items() if (case.operator, at) == (operator, target))
    rest = [f"{statuses[status]} {status}" for status in STATUSES[1:] if statuses[status]]
    return ", ".join([f"{statuses[VERIFIED]} of {statuses.total()}", *rest])


def reasons(outcomes: Outcomes, status: str) -> dict[tuple[str, str], list[str]]:
    """Target and reason -> the operators whose samples ended so."""
    found: dict[tuple[str, str], set[str]] = {}
    for (case, target), one in outcomes.items():
        if one.status == status:
            found.setdefault((target, one.reason), set()).add(case.operator)
    return {key: sorted(names) for key, names in sorted(found.items())}


def totals(outcomes: Outcomes, target: str) -> str:
    statuses = Counter(one.status for (_, at), one in outcomes.items() if at == target)
    return ", ".join(f"{statuses[status]} {status}" for status in STATUSES)


def write_page(outcomes: Outcomes, targets: Sequence[str]) -> str:
    """The markdown of docs/operators.md."""
    return "\n".join(_page_lines(outcomes, targets)) + "\n"


def _page_lines(outcomes: Outcomes, targets: Sequence[str]) -> Iterator[str]:
    cases = {case for case, _ in outcomes}
    yield from ("# Operators", "", "Written by `python -m bench.ops`; do not edit.", "")
    yield (
        f"PyTorch's own operator samples (the OpInfo database of its tests): {len(cases)} samples of "
        f"{len(operators_of(outcomes))} core ATen operators, in float32, int64, int32 and bool where the operator "
        "knows them, each as a model of that one operation, lowered in float32, run, and compared with PyTorch: "
        "integers and booleans exactly, floats to a relative 1e-4 (1e-3 where that is less than float32's epsilon), "
        "NaN and infinities where PyTorch has them. "
        "empty tensors are left out, since TFLite and Core ML have none. Core ML runs in the reference interpreter."
    )
    yield from ("", f"| operator | {' | '.join(targets)} |", f"|---|{'---|' * len(targets)}")
    for operator in operators_of(outcomes):
        yield f"| `{operator}` | {' | '.join(cell(outcomes, operator, target) for target in targets)} |"
    yield f"| **all samples** | {' | '.join(totals(outcomes, target) for target in targets)} |"
    for status in STATUSES[1:]:
        found = reasons(outcomes, status)
        if found:
            yield from ("", f"## {status.capitalize()}, by reason", "")
        for (target, reason), operators in found.items():
            said = " ".join(reason.split()).replace(f"{ROOT}/", "")
            yield f"- **{target}**, {', '.join(f'`{name}`' for name in operators)}: {said}"
    yield from ("", "## Core operators without a row", "")
    for reason in sorted(set(LEFT_OUT.values())):
        names = [f"`{name}`" for name in core_operators() if LEFT_OUT.get(name) == reason]
        yield f"- {reason}: {', '.join(names)}"


def print_table(console: Console, outcomes: Outcomes, targets: Sequence[str]) -> None:
    table = Table("operator", *targets)
    for operator in operators_of(outcomes):
        table.add_row(operator, *(cell(outcomes, operator, target) for target in targets))
    table.add_section()
    table.add_row("all samples", *(totals(outcomes, target) for target in targets))
    console.print(table)
    for (case, target), one in outcomes.items():
        if one.status in (FAILED, *BAD):
            console.print(f"{one.status.upper()} {target} {case}: {one.reason}", markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ops", description="PyTorch's operator samples on all targets"
    )
    parser.add_argument("--operators", help="names with commas between; all core operators without")
    parser.add_argument("--targets", help="names with commas between; all that are installed without")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of each operator, in float32")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    targets = options.targets.split(",") if options.targets else installed_targets()
    operators = options.operators.split(",") if options.operators else list(replayed_operators())
    cases = [case for operator in operators for case in cases_of(operator, options.samples)]
    outcomes = replay_all(cases, targets, console)
    print_table(console, outcomes, targets)
    if not options.operators and not options.targets and options.samples == SAMPLES:
        PAGE.write_text(write_page(outcomes, targets), encoding="utf-8")
    return 1 if any(one.status in BAD for one in outcomes.values()) else 0


def installed_targets() -> list[str]:
    """The targets whose runtime is importable."""
    from importlib.util import find_spec

    return [name for name in target_names() if all(find_spec(module) for module in get_target(name).modules)]


if __name__ == "__main__":
    sys.exit(main())
