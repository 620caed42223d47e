"""Weights of few bits, beside what the runtimes' own tools make of the same float32 file with the same data.

MiniLM and stdlib_lm, 4 bits in groups of 32 on OpenVINO (NNCF: plain, AWQ, scale estimation, GPTQ) and on Core ML
(coremltools: 4 bits in blocks, palettes of 16 values). Each maker runs in a process of its own: seconds are those of
compressing and saving, memory is the process's peak. Figures are of held-out data, by the files' own runtimes (Core ML
by the reference interpreter).

    python -m bench.weight_peers                       all, into docs/weight-peers.md
    python -m bench.weight_peers --subjects stdlib_lm  one of them (the page is then only printed)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.quantization import Subject, outputs, predictor, stored, subjects, tensors
from edgewright.pipeline.measure import peak_bytes
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.quiet import quiet

PAGE = Path(__file__).resolve().parent.parent / "docs" / "weight-peers.md"
SUBJECTS = ("minilm", "stdlib_lm")
FILES = {"openvino": "model.xml", "coreml": "model.mlpackage"}
W4 = {"pass": "quantize", "scheme": "w4g32", "signed_scales": True}
OURS: Mapping[str, Mapping[str, list[dict[str, Any]]]] = {
    "openvino": {
        "edgewright": [W4],
        "edgewright, AWQ": [{"pass": "scale-salient-channels", "signed_scales": True}, {**W4, "rounding": "weighted"}],
        "edgewright, GPTQ": [{**W4, "rounding": "gptq"}],
    },
    "coreml": {
        "edgewright, w4g32 GPTQ": [{**W4, "rounding": "gptq"}],
        "edgewright, p4": [{"pass": "quantize", "scheme": "p4"}],
        "edgewright, p4 weighted": [{"pass": "quantize", "scheme": "p4", "weighted": True}],
    },
}
NNCF: Mapping[str, Mapping[str, bool]] = {
    "NNCF": {},
    "NNCF, AWQ": {"awq": True},
    "NNCF, scale estimation": {"scale_estimation": True},
    "NNCF, AWQ and scale estimation": {"awq": True, "scale_estimation": True},
    "NNCF, GPTQ": {"gptq": True},
}
COREMLTOOLS = ("coremltools, int4 in blocks of 32", "coremltools, palette of 16")


@dataclass(frozen=True)
class Row:
    target: str
    maker: str
    metric: float
    sqnr_db: float
    share: float
    seconds: float
    peak_mb: float


def make(name: str, target: str, maker: str, folder: Path) -> dict[str, float]:
    """Write the maker's file into `folder`; its seconds and its process's peak memory in MB."""
    subject = subjects()[name]
    path = folder / FILES[target]
    with quiet():
        if maker == "float32" or maker in OURS[target]:
            seconds = _ours(subject, target, [] if maker == "float32" else OURS[target][maker], folder)
        elif maker in NNCF:
            seconds = _nncf(subject, NNCF[maker], folder.parent / "float32" / FILES[target], path)
        else:
            seconds = _coremltools(maker, folder.parent / "float32" / FILES[target], path)
    return {"seconds": seconds, "peak_mb": peak_bytes() / 1e6}


def _ours(subject: Subject, target: str, recipe: Sequence[Mapping[str, Any]], folder: Path) -> float:
    import edgewright as ew

    batches = [tensors(sample) for sample in subject.calibration()]
    program = ew.capture(subject.build(), batches[0])
    started = time.perf_counter()
    newest = {"coreml": "iOS==18"}.get(target)  # what coremltools needs for weights in blocks
    ew.lower(ew.compress(program, recipe, batches=batches).program, target=target, folder=folder, minimum=newest)
    return time.perf_counter() - started


def _nncf(subject: Subject, settings: Mapping[str, bool], source: Path, path: Path) -> float:
    import nncf
    import openvino

    samples = list(subject.calibration())
    model = openvino.Core().read_model(str(source))
    started = time.perf_counter()
    compressed = nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        ratio=1.0,
        group_size=32,
        all_layers=True,
        dataset=nncf.Dataset(samples) if settings else None,
        subset_size=len(samples),
        **settings,
    )
    openvino.save_model(compressed, str(path), compress_to_fp16=False)
    return time.perf_counter() - started


def _coremltools(maker: str, source: Path, path: Path) -> float:
    import coremltools as ct
    from coremltools.optimize import coreml as optimize

    model = ct.models.MLModel(str(source), skip_model_load=True)
    started = time.perf_counter()
    if "palette" in maker:
        config: Any = optimize.OpPalettizerConfig(mode="kmeans", nbits=4, weight_threshold=256)
        made = optimize.palettize_weights(model, optimize.OptimizationConfig(config))
    else:
        config = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32, weight_threshold=256
        )
        made = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(config))
    made.save(str(path))
    return time.perf_counter() - started


def measure(name: str, subject: Subject, say: Callable[[str], None]) -> list[Row]:
    from edgewright.pipeline.capture import capture
    from edgewright.pipeline.lowering import open_artifact
    from edgewright.pipeline.predictor import run_program
    from edgewright.targets import get_target

    samples = list(subject.held_out())
    program = capture(subject.build(), tensors(samples[0]))
    exact, floats = outputs(run_program(program), samples), stored(program)
    rows = []
    for target, makers in (("openvino", (*OURS["openvino"], *NNCF)), ("coreml", (*OURS["coreml"], *COREMLTOOLS))):
        with tempfile.TemporaryDirectory() as folder:
            for place, maker in enumerate(("float32", *makers)):
                own = Path(folder) / (maker if maker == "float32" else str(place))
                own.mkdir()
                told = _in_process(name, target, maker, own)
                artifact = get_target(target).find(own)
                with open_artifact(artifact) as session:
                    found = outputs(session.run, samples)
                    metric = subject.metric(predictor(session.run, samples[0]))
                share = artifact.size_bytes / floats
                rows.append(Row(target, maker, metric, sqnr_db(exact, found), share, **told))
                say(f"{name} {target} {maker}: {metric:.4f}, {rows[-1].sqnr_db:.1f} dB, {share:.3f}, {told}")
    return rows


def _in_process(name: str, target: str, maker: str, folder: Path) -> dict[str, float]:
    """Run `make` in a process of its own, since it is the peak of a process that is measured."""
    command = [sys.executable, "-m", "bench.weight_peers", "--make", name, target, maker, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PAGE.parent.parent)
    if ran.returncode:
        raise SystemExit(f"{maker} on {target} failed for {name}:\n{ran.stderr[-2000:]}")
    told: dict[str, float] = json.loads(ran.stdout.strip().splitlines()[-1])
    return told


def page(found: Mapping[str, tuple[Subject, list[Row]]]) -> str:
    lines = [
        "# Weights of few bits beside the runtimes' own tools",
        "",
        "Written by `python -m bench.weight_peers`: the same float32 file, the same calibration data, every layer and "
        "embedding table compressed; 4 bits in groups of 32 (scales signed, but for coremltools), or palettes of 16 "
        "values. SQNR and the metric are of held-out data, from the saved files; *file* is its share of float32's "
        "bytes. Seconds (on a shared machine) are those of compressing and saving, memory the peak of the maker's "
        "process.",
        "",
    ]
    for name, (subject, rows) in found.items():
        lines += [f"## {name}", "", f"| target | maker | {subject.label} | SQNR | file | seconds | peak memory |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [
            f"| {row.target} | {row.maker} | {row.metric:.4f} | {row.sqnr_db:.1f} dB | {row.share:.3f} | "
            f"{row.seconds:.0f} | {row.peak_mb:.0f} MB |"
            for row in rows
        ]
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.weight_peers", description="weights of few bits and peers")
    known = {name: subject for name, subject in subjects().items() if name in SUBJECTS}
    parser.add_argument("--subjects", nargs="+", choices=sorted(known), default=sorted(known))
    parser.add_argument("--make", nargs=4, metavar=("SUBJECT", "TARGET", "MAKER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.make:
        name, target, maker, folder = options.make
        print(json.dumps(make(name, target, maker, Path(folder))))
        return 0
    console = Console(highlight=False)
    found = {
        name: (known[name], measure(name, known[name], lambda line: console.print(line, markup=False)))
        for name in options.subjects
    }
    text = page(found)
    if len(found) == len(known):
        PAGE.write_text(text, encoding="utf-8")
    console.print(text, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
