"""Which operations of a TFLite file XNNPACK takes on this machine: what LiteRT says once it has opened the file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def left_by_delegate(path: Path, names: Sequence[str]) -> tuple[tuple[str, ...] | None, list[str]]:
    """The operations of the first subgraph that stay with LiteRT's plain kernels.

    LiteRT lists the file's operations and behind them one "DELEGATE" for every part that XNNPACK took, with the values
    that enter and leave it: what lies between those belongs to the delegate.

    Args:
        names: of the subgraph's operations, in order.
    Returns:
        None, and why, when LiteRT here does not open the file.
    """
    from ai_edge_litert.interpreter import Interpreter

    runtime = f"LiteRT {version('ai-edge-litert')}"
    try:
        interpreter: Any = Interpreter(str(path), num_threads=1)
        interpreter.allocate_tensors()
        listed = interpreter._get_ops_details()
    except Exception as error:  # noqa: BLE001  (its errors share no class: custom operations, unknown versions, ...)
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        return None, [f"{runtime} does not open the file here: {reason}"]
    own = listed[: len(names)]
    writer = {int(value): place for place, entry in enumerate(own) for value in entry["outputs"]}
    taken: set[int] = set()
    for entry in listed[len(names) :]:
        if entry["op_name"] != "DELEGATE":
            continue
        entering = {int(value) for value in entry["inputs"]}
        waiting = [int(value) for value in entry["outputs"]]
        while waiting:
            place = writer.get(waiting.pop())
            if place is not None and place not in taken:
                taken.add(place)
                waiting += [int(value) for value in own[place]["inputs"] if int(value) not in entering]
    return tuple(name for place, name in enumerate(names) if place not in taken), []
