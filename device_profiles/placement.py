"""Which operations of a file would leave an accelerator: what its documents say it takes, and nothing else.

An operation that a document does not name is unknown: lists lag behind the code that they describe.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from edgewright.device_profiles.schema import DeviceProfile, Record, Text
from edgewright.errors import DeviceError, did_you_mean
from edgewright.targets.base import Inspection, Operation
from edgewright.targets.islands import plain

FOLDER = Path(__file__).resolve().parent / "delegates"
ANY = "*"
Word = Literal["takes", "leaves", "unknown"]


class Rule(Record):
    """A verdict on operations in some compute dtypes; "*" stands for all."""

    verdict: Literal["takes", "leaves"]
    dtypes: tuple[Text, ...]
    ops: tuple[Text, ...]
    reason: str = ""


class Delegate(Record):
    """One accelerator or delegate; the first rule that fits an operation decides.

    Args:
        profiles: what device profiles call it.
        asked_here: the runtime on this machine tells what it takes; that goes before the rules.
    """

    name: Text
    target: Text
    profiles: tuple[Text, ...]
    source: Text
    asked_here: bool = False
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Placed:
    """Operations of one kind with the same verdict."""

    op: str
    compute: str
    verdict: Word
    count: int
    macs: int
    reason: str = ""


@dataclass(frozen=True)
class Placement:
    """Where a file's operations would go. `rows` with the most products first; `source` says who says so."""

    delegate: str
    source: str
    rows: tuple[Placed, ...] = ()

    def count(self, verdict: Word) -> int:
        return sum(row.count for row in self.rows if row.verdict == verdict)

    def macs(self, verdict: Word) -> int:
        return sum(row.macs for row in self.rows if row.verdict == verdict)


@cache
def delegates() -> dict[str, Delegate]:
    """Those that ship with edgewright, by the name of their file."""
    files = sorted(FOLDER.glob("*.toml"))
    return {file.stem: Delegate.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))) for file in files}


def place(inspection: Inspection, target: str, profile: DeviceProfile) -> Placement:
    """Where the operations go on a device, by the delegate that its profile names for the target.

    Raises:
        DeviceError: the device does not carry the target's runtime.
    """
    runtime = next((runtime for runtime in profile.runtimes if runtime.target == target), None)
    if runtime is None:
        raise DeviceError(
            f"{profile.name} has no runtime for {target} files",
            got=target,
            expected=", ".join(sorted(profile.targets)),
            do="choose another device, or lower the model to one of its targets",
        )
    for delegate in delegates().values():
        if delegate.target == target and runtime.delegate in delegate.profiles:
            return _place(inspection, delegate)
    if set(runtime.units) == {"cpu"}:
        return Placement(runtime.delegate, "the device profile: this runtime uses the CPU alone, nothing leaves it")
    rows = _rows((operation, "unknown", "") for operation in inspection.operations)
    return Placement(runtime.delegate, "no public list of what it takes is known here", rows)


def place_on(inspection: Inspection, target: str, name: str) -> Placement:
    """The same for a delegate by name, such as "tflite-gpu".

    Raises:
        DeviceError: no such delegate, or it takes files of another target.
    """
    delegate = delegates().get(name)
    if delegate is None:
        raise DeviceError("unknown delegate", got=repr(name), expected=did_you_mean(name, delegates()))
    if delegate.target != target:
        raise DeviceError(f"the {delegate.name} takes {delegate.target} files", got=f"a {target} file")
    return _place(inspection, delegate)


def _place(inspection: Inspection, delegate: Delegate) -> Placement:
    left = inspection.left_delegate
    if delegate.asked_here and left is not None:
        source = "asked: the runtime on this machine opened the file"
        words: Iterator[tuple[Operation, Word, str]] = (
            (operation, "leaves" if operation.name in left else "takes", "") for operation in inspection.operations
        )
        return Placement(delegate.name, source, _rows(words))
    return Placement(delegate.name, delegate.source, _rows(_judge(inspection, delegate)))


def _judge(inspection: Inspection, delegate: Delegate) -> Iterator[tuple[Operation, Word, str]]:
    for operation in inspection.operations:
        rule = next((rule for rule in delegate.rules if _fits(rule, operation)), None)
        if rule is None:
            yield operation, "unknown", "its documents do not name it"
        else:
            yield operation, rule.verdict, rule.reason


def _fits(rule: Rule, operation: Operation) -> bool:
    if ANY not in rule.dtypes and operation.compute not in rule.dtypes:
        return False
    return ANY in rule.ops or plain(operation.op) in map(plain, rule.ops)


def _rows(words: Iterator[tuple[Operation, Word, str]]) -> tuple[Placed, ...]:
    counts: Counter[tuple[str, str, Word, str]] = Counter()
    macs: Counter[tuple[str, str, Word, str]] = Counter()
    for operation, word, reason in words:
        key = (operation.op, operation.compute, word, reason)
        counts[key] += 1
        macs[key] += operation.macs
    rows = [
        Placed(op, compute, word, count, macs[op, compute, word, reason], reason)
        for (op, compute, word, reason), count in counts.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.macs, -row.count, row.op, row.compute)))
