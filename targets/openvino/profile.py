"""The CPU plugin's counters of some runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.targets.timing import OperationTime

WARM_UP, RUNS = 3, 15


def profile_ir(path: Path, inputs: Mapping[str, np.ndarray[Any, Any]], threads: int) -> tuple[OperationTime, ...]:
    from edgewright.targets.openvino.run import compile_model

    compiled = compile_model(path, threads, profiling=True)
    request = compiled.create_infer_request()
    feed = {
        port.any_name: np.ascontiguousarray(inputs[port.any_name], dtype=port.element_type.to_dtype())
        for port in compiled.inputs
    }
    times: dict[tuple[str, str], list[float]] = {}
    for place in range(WARM_UP + RUNS):
        request.infer(feed)
        for entry in request.profiling_info if place >= WARM_UP else ():
            spent = entry.real_time.total_seconds() * 1e3
            if spent:
                times.setdefault((entry.node_name, entry.node_type), []).append(spent)
    return tuple(OperationTime(*key, statistics.median(found)) for key, found in times.items())
