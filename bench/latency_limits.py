"""What a limit of predicted latency leaves of a model: `quantize-progressively` beside quantizing the first modules.

Limits lie between what the float32 and the int8 graph are predicted to take. Calibrated on the calibration part; SQNR
is of held-out data. The last table holds the prediction from the graph against that from the file, and what it says of
the gain against a measurement of the same files here.

    python -m bench.latency_limits        into docs/latency-limits.md; exit code 1 for a missed aim
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.quantization import subjects
from bench.zoo_plain import mobilenet_v1_quarter
from edgewright.device_profiles import load_profile
from edgewright.device_profiles.predict import predict_latency_ms
from edgewright.pipeline.capture import capture
from edgewright.pipeline.compress import compress
from edgewright.pipeline.lowering import lower, open_artifact
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.base import PassReport
from edgewright.pipeline.predicted_latency import PredictedLatency
from edgewright.pipeline.program import Program
from edgewright.targets import get_target

PAGE = Path(__file__).resolve().parent.parent / "docs" / "latency-limits.md"
TARGET, DEVICES, HERE = "tflite", ("pixel-8", "raspberry-pi-5"), "intel-n100"
GAINS = (0.25, 0.5, 0.75, 0.9, 0.98)  # of what int8 gains over float32, that a limit asks for
UNTRAINED = "MobileNetV1 0.25, untrained"
CALIBRATION, HELD_OUT, ROUNDS = 64, 64, 300
Sample = dict[str, Tensor]
latency = PredictedLatency()


@dataclass(frozen=True)
class Model:
    name: str
    program: Program
    calibration: list[Sample]
    held_out: list[Sample]

    def quantized(self, **settings: object) -> tuple[Program, PassReport]:
        found = compress(self.program, [{"scheme": "w8a8", **settings}], batches=self.calibration)
        return found.program, found.reports[-1].report

    def sqnr_db(self, program: Program) -> float:
        def outputs(one: Program) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
            return np.concatenate([next(iter(one.run(sample).values())).numpy().ravel() for sample in self.held_out])

        return sqnr_db(outputs(self.program), outputs(program))


def models() -> Iterator[Model]:
    known = subjects()
    for name in ("digits", "vision_text"):
        data = known[name]
        parts = [
            [{key: torch.as_tensor(value) for key, value in sample.items()} for sample in islice(source(), count)]
            for source, count in ((data.calibration, CALIBRATION), (data.held_out, HELD_OUT))
        ]
        yield Model(name, float32(data.build(), parts[0][0]), *parts)
    generator = torch.Generator().manual_seed(0)
    pictures = [
        {"input": F.interpolate(torch.rand(1, 3, 6, 6, generator=generator) * 4 - 2, size=(96, 96), mode="bilinear")}
        for _ in range(CALIBRATION + HELD_OUT)
    ]
    net = fitted(mobilenet_v1_quarter, pictures[:CALIBRATION])
    yield Model(UNTRAINED, float32(net, pictures[0]), pictures[:CALIBRATION], pictures[CALIBRATION:])


def fitted(make: Callable[[], torch.nn.Module], pictures: Sequence[Sample]) -> torch.nn.Module:
    """Random weights, and batch norms with the statistics of these pictures: else all outputs are nearly the same."""
    torch.manual_seed(0)
    net = make()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        net.train()(torch.cat([picture["input"] for picture in pictures]))
    return net.eval()


def float32(net: torch.nn.Module, sample: Sample) -> Program:
    """Cleaned as every program is: batch norms are part of their convolutions."""
    return compress(capture(net, sample), []).program


def first_modules(model: Model, modules: Sequence[str]) -> list[Program]:
    """With the first 0, 1, ... of the modules quantized."""
    found = [model.program]
    for count in range(1, len(modules) + 1):
        left = "|".join(("*", *(f"!{module}.*" for module in modules[count:])))
        found.append(model.quantized(**{"pass": "quantize", "modules": left})[0])
    return found


def rows(model: Model, say: Callable[[str], None]) -> Iterator[str]:
    """Of the tables of limits; a missed aim is told in its row."""
    whole = model.quantized(**{"pass": "quantize"})[0]
    _, tiny = model.quantized(**{"pass": "quantize-progressively", "share": 1e-6})
    modules = [choice.weight for choice in tiny.choices]
    naive = first_modules(model, modules)
    quality = [model.sqnr_db(program) for program in naive]
    for device in DEVICES:
        full, least = (latency(program, device, TARGET).expected for program in (model.program, whole))
        times = [latency(program, device, TARGET).expected for program in naive]
        yield f"| {model.name}, {device}: float32 | | 0 of {len(modules)} | {full:.3f} | | | |"
        before = float("inf")
        for gain in GAINS:
            limit = full - gain * (full - least)
            started = time.perf_counter()
            settings = {"pass": "quantize-progressively", "latency_ms": limit, "device": device, "target": TARGET}
            program, report = model.quantized(**settings)
            took, reached, found = time.perf_counter() - started, model.sqnr_db(program), report.latency
            assert found is not None, "it has a limit of latency"
            count = next(count for count, ms in enumerate(times) if ms <= limit + 1e-9)
            aims = {"over its limit": not report.missed, "worse than at a tighter limit": reached <= before + 0.05}
            aims["worse than the first modules"] = reached >= quality[count]
            missed = ", ".join(name for name, kept in aims.items() if not kept)
            before = reached
            row = (
                f"| {device} | {limit:.3f} | {report.rewrites} of {len(modules)} | {found.expected:.3f} "
                f"({found.low:.3f} to {found.high:.3f}) | {reached:.1f} dB | first {count}: {times[count]:.3f} ms, "
                f"{quality[count]:.1f} dB | {took:.0f} s{' **' + missed + '**' if missed else ''} |"
            )
            say(row)
            yield row
        row = f"| {device}: int8 | | {len(modules)} of {len(modules)} | {least:.3f} | {quality[-1]:.1f} dB | | |"
        yield row


def files(model: Model) -> Iterator[str]:
    """Of the last table: float32, half of the gain, int8."""
    settings = {"pass": "quantize-progressively", "device": HERE, "target": TARGET}
    whole = model.quantized(**{"pass": "quantize"})[0]
    full, least = (latency(program, HERE, TARGET).expected for program in (model.program, whole))
    half = model.quantized(**settings, latency_ms=(full + least) / 2)[0]
    programs = {"float32": model.program, "half of the gain": half, "int8": whole}
    profile = load_profile(HERE)
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {name: lower(program, TARGET, f"{folder}/{name}") for name, program in programs.items()}
        sample = {name: value.numpy() for name, value in model.held_out[0].items()}
        sessions = {name: open_artifact(artifact, threads=1) for name, artifact in artifacts.items()}
        measured = dict.fromkeys(sessions, float("inf"))
        for _ in range(ROUNDS):  # in turn, so that what else runs here hits all of them
            for name, session in sessions.items():
                started = time.perf_counter()
                session.run(sample)
                measured[name] = min(measured[name], 1e3 * (time.perf_counter() - started))
        for name, program in programs.items():
            inspection = get_target(TARGET).inspect(artifacts[name])
            stated = predict_latency_ms(inspection, profile, TARGET).expected
            graph = latency(program, HERE, TARGET).expected
            yield (
                f"| {model.name} | {name} | {graph:.3f} ms | {stated:.3f} ms | {graph / full:.2f} | "
                f"{measured[name] / measured['float32']:.2f} | {measured[name]:.3f} ms |"
            )


def measure(model: Model, folder: Path | None, say: Callable[[str], None]) -> tuple[list[str], list[str]]:
    """The rows of both tables, kept in `folder` and not measured again where they lie there."""
    file = folder / f"{model.name}.json" if folder else None
    if file is not None and file.is_file():
        limits, lowered = json.loads(file.read_text(encoding="utf-8"))
        return limits, lowered
    found = list(rows(model, say)), list(files(model))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found), encoding="utf-8")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.latency_limits", description="limits of predicted latency")
    parser.add_argument("--keep", type=Path, help="a folder that keeps each model's rows; what is there is not redone")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    say = partial(print, flush=True)
    found = [measure(model, options.keep, say) for model in models()]
    limits = [row for first, _ in found for row in first]
    lowered = [row for _, second in found for row in second]
    lines = [
        "# Limits of predicted latency",
        "",
        "Written by `python -m bench.latency_limits`. `quantize-progressively` with `latency_ms`: w8a8 in the modules "
        f"whose errors sum to the least, float32 in the others, {TARGET} on one thread. Predicted: expected ms with "
        "the interval. Beside it the fewest first modules of the graph that keep the same limit. SQNR is of the first "
        "output on held-out data. The untrained network has random weights, and batch norms with the statistics of its "
        "calibration data. In bold: aims that were missed.",
        "",
        "The sum of the modules' own errors is what is kept least, and the outputs' error is not that sum. On the "
        "trained networks it ranks the choices well. Of the untrained one the first three modules alone leave 9 dB; "
        "once a limit needs them, nothing tells the others apart, and the choice can be some tenths of a dB behind.",
        "",
        "| model, device | limit, ms | modules in int8 | predicted, ms | SQNR | the first modules instead | took |",
        "|---|---|---|---|---|---|---|",
        *limits,
        "",
        f"The files, predicted for {HERE} and run here, on a server's x86 processor that is no {HERE}: only shares of "
        "float32's time can be compared, and the least of "
        f"{ROUNDS} runs in turn is taken, since other work ran beside.",
        "",
        "| model | file | predicted from the graph | from the file | share of float32, predicted | measured here | |",
        "|---|---|---|---|---|---|---|",
        *lowered,
        "",
    ]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    say("\n".join(lines))
    return 1 if any("**" in row for row in limits) else 0


if __name__ == "__main__":
    sys.exit(main())
