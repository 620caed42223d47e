"""What each way to store weights leaves of a model, on held-out data, in the graph and in every target's file.

MiniLM (real weights; Spearman's correlation of sentence similarities with the original's), stdlib_lm (a small language
model; perplexity), digits and vision_text (accuracy). Quantized with the calibration part, figures are of the held-out
part.

    python -m bench.quantization                        all, into docs/quantization.md; exit code 1 for a missed aim
    python -m bench.quantization --subjects stdlib_lm   one of them (the page is then only printed)
    python -m bench.quantization --graphs               without the files
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from edgewright.pipeline.compress import compress
from edgewright.pipeline.lowering import lower, open_artifact
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.predictor import Run, run_program
from edgewright.pipeline.program import Program
from edgewright.pipeline.recipe import scheme_names
from edgewright.targets import get_target

PAGE = Path(__file__).resolve().parent.parent / "docs" / "quantization.md"
TARGETS = ("coreml", "onnx", "openvino", "tflite")
Arrays = dict[str, "np.ndarray[Any, Any]"]
Recipe = list[dict[str, Any]]


def weights(scheme: str, **settings: Any) -> Recipe:
    return [{"pass": "quantize", "scheme": scheme, **settings}]


def three_bits(**settings: Any) -> Recipe:
    return [{"pass": "quantize-weights", "bits": 3, "group": 32, **settings}]


SCALED = {"pass": "scale-salient-channels"}
EQUALIZED = {"pass": "equalize-layers"}
ROUGH: Recipe = [
    {"pass": name}
    for name in ("unroll-recurrence", "select-parts", "decompose-attention", "quantize-static", "round-biases")
]
TEXT: dict[str, Recipe] = {
    "bf16": weights("bf16"),
    "w8": weights("w8"),
    "w4, plain": weights("w4", search=False),
    "w4, GPTQ": weights("w4", rounding="gptq"),
    "w4g128, GPTQ": weights("w4g128", rounding="gptq"),
    "w4g32, plain": weights("w4g32", search=False),
    "w4g32, searched scales": weights("w4g32"),
    "w4g32, AWQ": [SCALED, *weights("w4g32", rounding="weighted")],
    "w4g32, AdaRound": weights("w4g32", rounding="adaround"),
    "w4g32, GPTQ": weights("w4g32", rounding="gptq"),
    "w4g32, AWQ and GPTQ": [SCALED, *weights("w4g32", rounding="gptq")],
    "mixed w4g32 and w8, at most 0.20": [{"pass": "mix-precision", "share": 0.2}],
    "3 bits in groups of 32, plain": three_bits(search=False),
    "3 bits in groups of 32, GPTQ": three_bits(rounding="gptq"),
    "w2g32, plain": weights("w2g32", search=False),
    "w2g32, GPTQ": weights("w2g32", rounding="gptq"),
    "w8a8, not smoothed": ROUGH,
    "w8a8": weights("w8a8"),
    "w8a8, biases corrected": weights("w8a8", correct_biases=True),
    "w8a8-dynamic": weights("w8a8-dynamic"),
}
PICTURES: dict[str, Recipe] = {
    "w8a8": weights("w8a8"),
    "w8a8, equalized": [EQUALIZED, *weights("w8a8")],
    "w8a8, biases corrected": weights("w8a8", correct_biases=True),
    "w8a8, both": [EQUALIZED, *weights("w8a8", correct_biases=True)],
    "w8": weights("w8"),
    "w4, plain": weights("w4", search=False),
    "w4, biases corrected": weights("w4", search=False, correct_biases=True),
    "w4, AdaRound": weights("w4", rounding="adaround"),
    "w4, GPTQ": weights("w4", rounding="gptq"),
    "w4, GPTQ and biases corrected": weights("w4", rounding="gptq", correct_biases=True),
    "mixed w4 and w8, at most 0.20": [{"pass": "mix-precision", "share": 0.2, "schemes": "w4|w8"}],
    "w4a8": weights("w4a8"),
    "w4a8, trained": weights("w4a8", training=True),
}
IN_FILES = ("bf16", "w8", "w4, GPTQ", "w4g32, GPTQ", "w2g32, GPTQ", "w8a8", "w8a8-dynamic", "w4a8, trained")
# The first has to have the higher SQNR than the second, at the same size, where a subject has both.
BETTER = (
    ("w4g32, GPTQ", "w4g32, plain"),
    ("w4g32, AWQ", "w4g32, plain"),
    ("w4g32, AdaRound", "w4g32, plain"),
    ("w8a8", "w8a8, not smoothed"),
    ("w8a8, equalized", "w8a8"),
    ("w8a8, biases corrected", "w8a8"),
    ("w4, AdaRound", "w4, plain"),
    ("w4, GPTQ", "w4, plain"),
    ("w4, biases corrected", "w4, plain"),
    ("w4a8, trained", "w4a8"),
)


@dataclass(frozen=True)
class Subject:
    """A model with its data.

    Args:
        metric: of the function that predicts; `higher_is_better` tells which way it is meant.
        allowed: the worst metric of some recipes, given float32's.
    """

    recipes: Mapping[str, Recipe]

    build: Callable[[], torch.nn.Module]
    calibration: Callable[[], Iterator[Arrays]]
    held_out: Callable[[], Iterator[Arrays]]
    label: str
    metric: Callable[[Callable[[Arrays], Arrays]], float]
    allowed: Mapping[str, Callable[[float], float]]
    higher_is_better: bool


def subjects() -> dict[str, Subject]:
    from examples.digits import data as digits
    from examples.digits.model import build as build_digits
    from examples.minilm import data as minilm
    from examples.minilm.model import build as build_minilm
    from examples.stdlib_lm import data as stdlib_lm
    from examples.stdlib_lm.model import build as build_lm
    from examples.vision_text import data as vision_text
    from examples.vision_text.model import build as build_vision_text

    return {
        "minilm": Subject(
            TEXT,
            build_minilm,
            minilm.calibration,
            minilm.validation,
            "Spearman",
            minilm.correlation,
            {
                "w8": lambda full: full - 0.003,
                "w8a8": lambda full: full - 0.005,
                "w4g32, GPTQ": lambda full: full - 0.02,
            },
            higher_is_better=True,
        ),
        "stdlib_lm": Subject(
            TEXT,
            lambda: trained(build_lm(), "stdlib_lm"),
            stdlib_lm.calibration,
            stdlib_lm.validation,
            "perplexity",
            stdlib_lm.perplexity,
            {"w8": lambda full: full * 1.002, "w4g32, GPTQ": lambda full: full * 1.02},
            higher_is_better=False,
        ),
        "digits": pictures("digits", digits, build_digits),
        "vision_text": pictures("vision_text", vision_text, build_vision_text),
    }


def pictures(name: str, data: Any, build: Callable[[], torch.nn.Module]) -> Subject:
    return Subject(
        PICTURES,
        lambda: trained(build(), name),
        data.calibration,
        data.validation,
        "accuracy",
        data.accuracy,
        {"w8a8": lambda full: full - 0.005, "w4a8, trained": lambda full: full - 0.01},
        higher_is_better=True,
    )


def trained(model: torch.nn.Module, example: str) -> torch.nn.Module:
    from safetensors.torch import load_file

    model.load_state_dict(load_file(str(PAGE.parent.parent / "examples" / example / f"{example}.safetensors")))
    return model.eval()


@dataclass(frozen=True)
class Row:
    """A recipe on a subject; `files` has a target's SQNR against the original, its share of float32, its metric."""

    recipe: str
    metric: float
    sqnr_db: float
    share: float
    seconds: float
    files: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Measured:
    name: str
    label: str
    metric: float
    rows: tuple[Row, ...]
    misses: tuple[str, ...]

    @staticmethod
    def of(content: dict[str, Any]) -> Measured:
        """From the plain data that a folder kept."""
        return Measured(**{**content, "rows": tuple(Row(**row) for row in content["rows"])})


def measure(name: str, subject: Subject, *, files: bool, say: Callable[[str], None]) -> Measured:
    from edgewright.pipeline.capture import capture

    batches = [tensors(sample) for sample in subject.calibration()]
    samples = list(subject.held_out())
    program = capture(subject.build(), tensors(samples[0]))
    original = outputs(run_program(program), samples)
    full, floats = subject.metric(predictor(run_program(program), samples[0])), stored(program)
    rows, misses = [], []
    for recipe, steps in subject.recipes.items():
        started = time.perf_counter()
        compressed = compress(program, steps, batches=batches).program
        seconds = time.perf_counter() - started
        run = run_program(compressed)
        found = {}
        if files and recipe in IN_FILES:
            targets = [
                target for target in TARGETS if set(scheme_names(steps)) <= set(get_target(target).capabilities.schemes)
            ]
            found = {target: in_file(compressed, target, subject, samples, original, floats) for target in targets}
        row = Row(
            recipe,
            subject.metric(predictor(run, samples[0])),
            sqnr_db(original, outputs(run, samples)),
            stored(compressed) / floats,
            seconds,
            found,
        )
        rows.append(row)
        say(
            f"{name} {recipe}: {subject.label} {row.metric:.4f}, {row.sqnr_db:.1f} dB, {row.share:.3f}, {seconds:.0f} s"
        )
        misses += [f"{name}: {miss}" for miss in missed(row, subject, full)]
    reached = {row.recipe: row.sqnr_db for row in rows}
    for better, plain in BETTER:
        if better in reached and plain in reached and reached[better] <= reached[plain]:
            misses.append(f"{name}: {better} has {reached[better]:.1f} dB, {plain} {reached[plain]:.1f}")
    mixed = next(row for row in rows if row.recipe.startswith("mixed"))
    if any(row.sqnr_db >= mixed.sqnr_db and row.share <= mixed.share and row is not mixed for row in rows):
        misses.append(f"{name}: a uniform scheme is as small as mixed precision and better")
    return Measured(name, subject.label, full, tuple(rows), tuple(misses))


def missed(row: Row, subject: Subject, full: float) -> Iterator[str]:
    sign = 1 if subject.higher_is_better else -1
    allowed = subject.allowed.get(row.recipe)
    if allowed is not None and sign * row.metric < sign * allowed(full):
        yield f"{row.recipe}: {subject.label} {row.metric:.4f}, limit {allowed(full):.4f}"
    for target, (found, share, _) in row.files.items():
        if found < row.sqnr_db - 1:
            yield f"{row.recipe} on {target}: {found:.1f} dB, the graph {row.sqnr_db:.1f}"
        limit = {"w8": 0.27, "w4g32, GPTQ": 0.20}.get(row.recipe, 1.0)
        if share > limit:
            yield f"{row.recipe} on {target}: {share:.3f} of float32, limit {limit}"


def in_file(
    program: Program, target: str, subject: Subject, samples: Sequence[Arrays], original: Any, floats: int
) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        artifact = lower(program, target, folder)
        with open_artifact(artifact) as session:
            found = sqnr_db(original, outputs(session.run, samples))
            return found, artifact.size_bytes / floats, subject.metric(predictor(session.run, samples[0]))


def tensors(sample: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in sample.items()}


def outputs(run: Run, samples: Sequence[Arrays]) -> np.ndarray[Any, Any]:
    return np.concatenate([next(iter(run(sample).values())) for sample in samples])


def predictor(run: Run, sample: Arrays) -> Callable[[Arrays], Arrays]:
    """What a metric calls: row by row of the inputs that have one in `sample`; the others are given whole."""
    single = [name for name, array in sample.items() if len(array) == 1]

    def predict(inputs: Arrays) -> Arrays:
        results = [
            run({name: array[row : row + 1] if name in single else array for name, array in inputs.items()})
            for row in range(len(inputs[single[0]]))
        ]
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    return predict


def stored(program: Program) -> int:
    return sum(program.weight_bytes().values())


def page(found: Sequence[Measured]) -> str:
    lines = [
        "# Quantization",
        "",
        "Written by `python -m bench.quantization`. Calibrated on the calibration part of each example, measured on "
        "held-out data. *plain*: nearest integers, scales from the largest weight. *searched scales*: the scale with "
        "the least squared error. *not smoothed*: without SmoothQuant and balanced outputs. *equalized*: "
        "`equalize-layers` before. *trained*: quantization-aware, without labels. SQNR is of the first output against "
        "the float32 model; bytes are the constants' share of float32.",
        "",
    ]
    for measured in found:
        lines += [
            f"## {measured.name}: float32 {measured.label} {measured.metric:.4f}",
            "",
            f"| weights | {measured.label} | SQNR | bytes | seconds |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.recipe} | {row.metric:.4f} | {row.sqnr_db:.1f} dB | {row.share:.3f} | {row.seconds:.0f} |"
            for row in measured.rows
        ]
        lines += ["", "In the files, each run in its own runtime (Core ML by the reference interpreter):", ""]
        lines += [f"| weights | target | {measured.label} | SQNR (graph) | file |", "|---|---|---|---|---|"]
        lines += [
            f"| {row.recipe} | {target} | {metric:.4f} | {reached:.1f} dB ({row.sqnr_db:.1f}) | {share:.3f} |"
            for row in measured.rows
            for target, (reached, share, metric) in row.files.items()
        ]
        lines.append("")
    misses = [miss for measured in found for miss in measured.misses]
    lines += ["## Aims that were missed", "", *([f"- {miss}" for miss in misses] or ["None."]), ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quantization", description="error by scheme and rounding")
    known = subjects()
    parser.add_argument("--subjects", nargs="+", choices=sorted(known), default=sorted(known))
    parser.add_argument(
        "--keep", type=Path, help="a folder that keeps each subject's rows; what is there is not redone"
    )
    parser.add_argument("--graphs", action="store_true", help="leave the files out; the page is only printed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(highlight=False)
    found = []
    for name in options.subjects:
        file = options.keep / f"{name}.json" if options.keep else None
        if file is None or not file.is_file():
            rows = measure(
                name, known[name], files=not options.graphs, say=lambda line: console.print(line, markup=False)
            )
            if file is None:
                found.append(rows)
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(asdict(rows)), encoding="utf-8")
        found.append(Measured.of(json.loads(file.read_text(encoding="utf-8"))))
    text = page(found)
    if len(found) == len(known) and not options.graphs:
        PAGE.write_text(text, encoding="utf-8")
    console.print(text, markup=False)
    return 1 if any(measured.misses for measured in found) else 0


if __name__ == "__main__":
    sys.exit(main())
