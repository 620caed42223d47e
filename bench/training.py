"""What 8 and 4 bits leave of the examples' accuracy, calibrated alone and trained without labels.

    python -m bench.training            both examples, as a table; exit code 1 for a missed limit
    python -m bench.training digits     one of them

Each is calibrated, and trained, with the samples of its release file's [calibration]; accuracy is of the held-out test
set of its own metric, SQNR against the original on the samples of [validation], seconds are of the whole compression.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewright.calibration.batches import load_samples, to_tensors
from edgewright.pipeline.capture import capture
from edgewright.pipeline.compress import compress
from edgewright.pipeline.metric import Metric, MetricInput, metric_value
from edgewright.pipeline.metrics import sqnr_by_output
from edgewright.pipeline.predictor import run_program
from edgewright.pipeline.release import read_release
from edgewright.pipeline.sources import load_model

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ("digits", "vision_text")
TRAINED = "w4a8, trained"
RECIPES: dict[str, list[dict[str, Any]]] = {
    "float32": [],
    "w8a8": [{"pass": "quantize", "scheme": "w8a8"}],
    "w4a8": [{"pass": "quantize", "scheme": "w4a8"}],
    TRAINED: [{"pass": "quantize", "scheme": "w4a8", "training": True}],
}
MOST_DROP = {"w8a8": 0.005, TRAINED: 0.01}


@dataclass(frozen=True)
class Row:
    """A recipe on an example; `share` is of float32's bytes of weights."""

    example: str
    recipe: str
    accuracy: float
    sqnr_db: float
    share: float
    seconds: float


def measure(example: str) -> Iterator[Row]:
    """The rows of an example, in the order of RECIPES."""
    release = read_release(ROOT / "examples" / example / "release.toml")
    model, ports = release.model, release.model.inputs
    assert release.calibration and release.validation and release.quality.metric, "examples have them"
    calibration = load_samples(release.calibration.data, ports, release.calibration.samples, "calibration.data")
    validation = load_samples(release.validation.data, ports, release.validation.samples, "validation.data")
    program = capture(load_model(model.source, str(ROOT / str(model.checkpoint))), to_tensors(calibration[:1])[0])
    inputs = tuple(MetricInput(port.name, port.shape, port.dtype) for port in ports)
    metric = Metric(release.quality.metric, inputs, (str(ROOT),))
    original = [run_program(program)(sample) for sample in validation]
    for recipe, steps in RECIPES.items():
        started = time.perf_counter()
        compressed = compress(program, steps, batches=to_tensors(calibration)).program
        seconds = time.perf_counter() - started
        run = run_program(compressed)
        noise = min(sqnr_by_output(original, [run(sample) for sample in validation]).values())
        share = sum(compressed.weight_bytes().values()) / sum(program.weight_bytes().values())
        yield Row(example, recipe, metric_value(metric, run), noise, share, seconds)


def misses(rows: Sequence[Row]) -> list[str]:
    """What fell more than it may, and training that gains nothing."""
    found = []
    for example in {row.example: None for row in rows}:
        of = {row.recipe: row for row in rows if row.example == example}
        for recipe, most in MOST_DROP.items():
            if (drop := of["float32"].accuracy - of[recipe].accuracy) > most:
                found.append(f"{example}: {recipe} falls by {drop:.4f}, limit {most}")
        if of[TRAINED].sqnr_db <= of["w4a8"].sqnr_db or of[TRAINED].accuracy < of["w4a8"].accuracy:
            found.append(f"{example}: training gains nothing")
    return found


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| example | recipe | accuracy | change | SQNR | of float32's bytes | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    floats: Mapping[str, float] = {row.example: row.accuracy for row in rows if row.recipe == "float32"}
    for row in rows:
        change = f"{100 * (row.accuracy - floats[row.example]):+.2f} %" if row.recipe != "float32" else ""
        noise = f"{row.sqnr_db:.1f} dB" if row.recipe != "float32" else ""
        lines.append(
            f"| `{row.example}` | {row.recipe} | {row.accuracy:.4f} | {change} | {noise} | {row.share:.3f} "
            f"| {row.seconds:.0f} |"
        )
    return "\n".join(lines)


def main(examples: Sequence[str]) -> int:
    import torch

    torch.set_num_threads(1)
    os.chdir(ROOT)  # release files name their checkpoints and modules from there
    rows = []
    for example in examples:
        for row in measure(example):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    print(table(rows))
    for miss in (missed := misses(rows)):
        print(miss, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or EXAMPLES))
