"""Is a quantized artifact faster than its float32 form, and if not: which operations cost the time?"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewright.errors import EdgewrightError
from edgewright.pipeline.arrays import load_samples_file
from edgewright.pipeline.deliver import Delivery, delivery_of
from edgewright.pipeline.handover import load_program, save_program
from edgewright.pipeline.jobs import JOBS, run_job
from edgewright.pipeline.lowering import write_files
from edgewright.pipeline.package import ARTIFACT
from edgewright.pipeline.results import Figure, SlowOperation, SpeedResult
from edgewright.targets import get_target
from edgewright.targets.base import Inspection
from edgewright.targets.timing import OperationTime, Profiler

if TYPE_CHECKING:
    from edgewright.pipeline.plan import PlannedDelivery
    from edgewright.pipeline.subject import Subject

TIMEOUT_S = 600.0
TURNS, RUNS, MOST_NAMED = 12, 4, 5
LEAST_SHARE = 0.02  # of the artifact's time: what costs less is not named
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "FakeQuantize", "Quantize", "Dequantize"})
# One name for an operation, whichever kernel a runtime chose for it.
FAMILIES = {
    "FusedConv": "Conv",
    "QLinearConv": "Conv",
    "ConvInteger": "Conv",
    "QGemm": "MatMul",
    "Gemm": "MatMul",
    "FusedGemm": "MatMul",
    "FusedMatMul": "MatMul",
    "QLinearMatMul": "MatMul",
    "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "FullyConnected": "MatMul",
    "FakeQuantize": "conversions",
    "QuantizeLinear": "conversions",
    "DequantizeLinear": "conversions",
}


def compare_with_float32(
    delivery: PlannedDelivery, subject: Subject, staging: Path, inspection: Inspection
) -> SpeedResult:
    """Lower the original program to the delivery's target in float32, and let the two take turns.

    A float32 form that cannot be made or run is no fault of the delivery: the result says why there is no figure.
    """
    folder = staging / JOBS / delivery.label / "speed"
    folder.mkdir()
    save_program(subject.original, folder / "original.pt2")
    job = Delivery(
        target=delivery.section.target,
        program=str(folder / "original.pt2"),
        inputs=subject.original.inputs,
        outputs=subject.original.outputs,
        artifact=str(staging / delivery.label / ARTIFACT),
        samples=str(subject.samples_file),
        dims=subject.original.dims,
        threads=delivery.section.threads,
        minimum=delivery.minimum,
    )
    try:
        found = run_job("compare-float32", job, folder, TIMEOUT_S)
    except EdgewrightError as error:
        return SpeedResult(fault=str(error))
    return judge_speed(found, inspection)


def judge_speed(found: Mapping[str, Any], inspection: Inspection) -> SpeedResult:
    """What a comparison found, as the release records it; the causes where the artifact is the slower one."""

    def figure(value: float) -> Figure:
        return Figure(value=round(value, 4), provenance="measured-on-host")

    causes: tuple[SlowOperation, ...] = ()
    if found["speedup"] < 1.0:
        own, other = ([OperationTime(**entry) for entry in found[key]] for key in ("profile", "float32_profile"))
        causes = tuple(causes_by_time(own, other) if own and other else causes_by_inspection(inspection))
    return SpeedResult(
        speedup=figure(found["speedup"]),
        artifact_ms=figure(found["artifact_ms"]),
        float32_ms=figure(found["float32_ms"]),
        slower_because=causes,
    )


def causes_by_time(own: Sequence[OperationTime], other: Sequence[OperationTime]) -> Iterator[SlowOperation]:
    """The kinds of operations that take longer than in the float32 form, the costliest first."""
    least = LEAST_SHARE * sum(entry.ms for entry in own)
    spent, before = _by_family(own), _by_family(other)
    extra = {
        family: sum(e.ms for e in entries) - sum(e.ms for e in before.get(family, ()))
        for family, entries in spent.items()
    }
    for family in sorted(extra, key=lambda name: (-extra[name], name))[:MOST_NAMED]:
        if extra[family] < max(least, 1e-6):
            return
        kinds = sorted({entry.op for entry in spent[family]})
        if family == "conversions":
            why = "converts between float and integers"
        elif family in before:
            floats = ", ".join(sorted({entry.op for entry in before[family]}))
            why = f"{floats} of the float32 form took {sum(entry.ms for entry in before[family]):.3g} ms"
        else:
            why = "the float32 form has none of its kind"
        longest = max(spent[family], key=lambda entry: entry.ms).name
        yield SlowOperation(
            op=", ".join(kinds), count=len(spent[family]), extra_ms=round(extra[family], 4), longest=longest, why=why
        )


def _by_family(entries: Iterable[OperationTime]) -> dict[str, list[OperationTime]]:
    found: dict[str, list[OperationTime]] = {}
    for entry in entries:
        found.setdefault(FAMILIES.get(entry.op, entry.op.removeprefix("QLinear")), []).append(entry)
    return found


def causes_by_inspection(inspection: Inspection) -> Iterator[SlowOperation]:
    """Where the runtime times nothing: what its delegate leaves out, float islands, and layout changes."""
    kinds = {operation.name: operation.op for operation in inspection.executed or inspection.operations}
    groups = [
        ("the runtime's delegate leaves it to plain kernels", inspection.left_delegate or ()),
        (
            "stays in float between integer operations",
            [name for island in inspection.islands for name in island.operations],
        ),
        ("changes the memory layout", [change.name for change in inspection.layout_changes]),
        ("converts between float and integers", [name for name, op in kinds.items() if op.title() in CONVERSIONS]),
    ]
    for why, names in groups:
        counts: dict[str, list[str]] = {}
        for name in names:
            counts.setdefault(kinds.get(name, name), []).append(name)
        for op, members in sorted(counts.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_NAMED]:
            yield SlowOperation(op=op, count=len(members), extra_ms=None, longest=members[0], why=why)


def run_comparison(folder: Path, **arguments: Any) -> dict[str, Any]:
    """Carry it out, for a `Delivery` of the original program whose `artifact` is the quantized one.

    Returns:
        medians in ms, the median ratio over all turns, and the profiles of both where the artifact is the slower one.
    """
    import torch

    from edgewright.pipeline.compress import compress

    torch.set_num_threads(1)
    job = delivery_of(arguments)
    target = get_target(job.target, job.minimum)
    program = load_program(Path(job.program), job.inputs, job.outputs, job.dims)
    place = folder / "float32"
    place.mkdir()
    float32 = write_files(compress(program, []).program, target, place)
    artifact = target.find(Path(job.artifact))
    inputs = load_samples_file(Path(job.samples))[0]
    with target.open(artifact, job.threads) as own, target.open(float32, job.threads) as other:
        times: tuple[list[float], list[float]] = ([], [])
        ratios = []
        for turn in range(1 + TURNS):
            found = [[_timed(session, inputs) for _ in range(RUNS)] for session in (own, other)]
            if turn:  # the first one warms up
                ratios.append(min(found[1]) / min(found[0]))
                for kept, new in zip(times, found, strict=True):
                    kept += new
    speedup = statistics.median(ratios)
    profiles: dict[str, list[dict[str, Any]]] = {"profile": [], "float32_profile": []}
    if speedup < 1.0 and isinstance(target, Profiler):
        for key, which in (("profile", artifact), ("float32_profile", float32)):
            profiles[key] = [dataclasses.asdict(entry) for entry in target.profile(which, inputs, job.threads)]
    medians = [statistics.median(kept) for kept in times]
    return {"speedup": speedup, "artifact_ms": medians[0], "float32_ms": medians[1], **profiles}


def _timed(session: Any, inputs: Mapping[str, np.ndarray[Any, Any]]) -> float:
    started = time.perf_counter()
    session.run(inputs)
    return (time.perf_counter() - started) * 1e3
