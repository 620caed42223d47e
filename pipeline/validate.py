"""Compare artifacts with their reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.errors import CalibrationError
from edgewright.pipeline.compress import fitting_tensors
from edgewright.pipeline.lowering import open_artifact
from edgewright.pipeline.metrics import IDENTICAL_DB, sqnr_by_output, sqnr_db
from edgewright.pipeline.predictor import run_program
from edgewright.pipeline.program import Program
from edgewright.pipeline.results import Comparison
from edgewright.targets import get_target
from edgewright.targets.base import Arrays, Artifact

ALLOWED_LOSS_DB = 1.0


@dataclass(frozen=True)
class OutputVerdict:
    """One output: SQNR of the artifact against the reference, in dB, and the largest absolute difference."""

    sqnr_db: float
    max_difference: float


@dataclass(frozen=True)
class Verdict:
    """What `validate` found: `passed` holds when every output reaches `floor_db`."""

    passed: bool
    floor_db: float
    outputs: Mapping[str, OutputVerdict]
    runtime: str
    provenance: str


def validate(
    artifact: Artifact,
    reference: Program,
    batches: Iterable[Mapping[str, Any] | Sequence[Any]],
    *,
    original: Program | None = None,
    threads: int = 1,
) -> Verdict:
    """Run an artifact and its reference on the same inputs.

    Args:
        reference: the compressed program that the artifact was lowered from.
        batches: dicts by input name, or tuples in the inputs' order, of tensors or arrays.
        original: the program before compression. With it the rule for quantized artifacts applies: noise against the
            original at most 1 dB above the graph's own. Without it every output has to come within the target's
            tolerance of the reference, or within 20 dB where the reference has quantized activations, whose single
            steps of rounding differ between runtimes.
    """
    samples = [
        {name: tensor.detach().cpu().numpy() for name, tensor in fitting_tensors(batch, reference).items()}
        for batch in batches
    ]
    if not samples:
        raise CalibrationError("validation needs at least one batch", got="none")
    run = run_program(reference)
    expected = [run(sample) for sample in samples]
    with open_artifact(artifact, threads) as session:
        found = [session.run(sample) for sample in samples]
        runtime, provenance = session.runtime, session.provenance
    tolerance = get_target(artifact.target).capabilities.tolerance_for(reference.weight_bytes())
    against = sqnr_by_output(expected, found)
    if original is not None:
        first = run_program(original)
        exact = [first(sample) for sample in samples]
        own, total = sqnr_by_output(exact, expected), sqnr_by_output(exact, found)
        passed = all(total[name] >= parity_floor(own[name], tolerance) for name in own)
        floor = min(parity_floor(value, tolerance) for value in own.values())
    else:
        floor = 20.0 if _has_quantized_activations(reference) else tolerance
        passed = all(value >= floor for value in against.values())
    outputs = {name: OutputVerdict(value, _largest(expected, found, name)) for name, value in against.items()}
    return Verdict(passed, floor, outputs, runtime, provenance)


def parity_floor(own_db: float, tolerance_db: float) -> float:
    """The least SQNR against the original that an artifact may have, where the compressed graph has `own_db`.

    One dB below the graph's own; for a graph without noise of its own, the target's float tolerance.
    """
    return min(own_db - ALLOWED_LOSS_DB, tolerance_db)


def compare(reference: Sequence[Arrays], other: Sequence[Arrays]) -> Comparison:
    """SQNR of each output, and the least of them."""
    outputs = sqnr_by_output(reference, other)
    return Comparison(sqnr_db=min(outputs.values(), default=IDENTICAL_DB), outputs=outputs)


def _has_quantized_activations(program: Program) -> bool:
    return any("quantized_decomposed.quantize_per_tensor" in str(node.target) for node in program.graph.nodes)


def _largest(expected: Sequence[Arrays], found: Sequence[Arrays], name: str) -> float:
    return max(
        float(np.max(np.abs(np.asarray(one[name], np.float64) - np.asarray(two[name], np.float64)), initial=0.0))
        for one, two in zip(expected, found, strict=True)
    )


__all__ = ["OutputVerdict", "Verdict", "compare", "parity_floor", "sqnr_db", "validate"]
