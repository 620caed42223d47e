"""ONNX Runtime's own profile of some runs."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.targets.timing import OperationTime

WARM_UP, RUNS = 3, 15
SUFFIX = "_kernel_time"


def profile_onnx(path: Path, inputs: Mapping[str, np.ndarray[Any, Any]], threads: int) -> tuple[OperationTime, ...]:
    import onnxruntime

    from edgewright.targets.onnx.run import DTYPES

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = {port.name: np.asarray(inputs[port.name], DTYPES[port.type]) for port in session.get_inputs()}
        for _ in range(WARM_UP + RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("name", "").endswith(SUFFIX):
            name = event["name"].removesuffix(SUFFIX)
            times.setdefault((name, event["args"]["op_name"]), []).append(event["dur"] / 1e3)
    return tuple(OperationTime(*key, statistics.median(found[-RUNS:])) for key, found in times.items())
