"""Run one contestant of bench/peers.py, on one thread, in a process that holds nothing but its runtime.

    python -m bench.peer_runner RUNTIME FILE FOLDER     FOLDER has samples.npz; outputs.npz goes beside FILE

Outputs of all samples first; then, for each line that it reads, so many timed runs of the first sample: a JSON list of
[milliseconds, milliseconds of CPU time] a line. Whoever writes the lines lets the contestants take turns.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Run = Callable[[Arrays], Any]


def _by_name(names: list[str], sample: Arrays) -> dict[str, str]:
    """Which sample array each input takes: the one of its name, else the one of its place."""
    if set(names) <= set(sample):
        return {name: name for name in names}
    return dict(zip(names, sample, strict=True))


def _onnx(path: Path, sample: Arrays) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = _by_name([port.name for port in session.get_inputs()], sample)
    return lambda inputs: session.run(None, {name: inputs[key] for name, key in names.items()})[0]


def _openvino(path: Path, sample: Arrays) -> Run:
    from edgewright.targets.openvino.run import compile_model

    compiled = compile_model(path, 1)
    request = compiled.create_infer_request()
    names = _by_name([port.any_name for port in compiled.inputs], sample)
    kinds = {port.any_name: port.element_type.to_dtype() for port in compiled.inputs}
    return lambda inputs: request.infer(
        {name: np.ascontiguousarray(inputs[key], kinds[name]) for name, key in names.items()}
    )[0]


def _tflite(path: Path, sample: Arrays) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
    details = runner.get_input_details()
    names = _by_name(list(details), sample)
    return lambda inputs: next(
        iter(runner(**{name: inputs[key].astype(details[name]["dtype"]) for name, key in names.items()}).values())
    )


OPEN = {"onnx": _onnx, "openvino": _openvino, "tflite": _tflite}


def main(runtime: str, path: Path, folder: Path) -> None:
    with np.load(folder / "samples.npz") as content:
        stacked = {name: content[name] for name in content.files}
    samples = [dict(zip(stacked, values, strict=True)) for values in zip(*stacked.values(), strict=True)]
    run = OPEN[runtime](path, samples[0])
    np.savez(path.with_name("outputs.npz"), np.stack([np.array(run(sample), dtype=np.float32) for sample in samples]))
    print("ready", flush=True)
    for line in sys.stdin:
        run(samples[0])  # another contestant's data fill the caches
        times = []
        for _ in range(int(line)):
            started, spent = time.perf_counter(), time.process_time()
            run(samples[0])
            times.append([(time.perf_counter() - started) * 1e3, (time.process_time() - spent) * 1e3])
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
