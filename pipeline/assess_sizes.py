"""The comparisons of a delivery at each combination of sizes that validation has to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgewright.pipeline import limits
from edgewright.pipeline.results import Check, Figure, Provenance, SizeResult
from edgewright.pipeline.shapes import cases, describe
from edgewright.pipeline.validate import compare, parity_floor
from edgewright.targets.base import Arrays

if TYPE_CHECKING:
    from edgewright.pipeline.subject import Subject


def compare_sizes(subject: Subject, found: Sequence[Arrays]) -> tuple[SizeResult, ...]:
    """One result for each case; empty for a program of fixed shapes."""
    program = subject.program
    if not program.dims:
        return ()
    sizes_of = [program.shapes.sizes(sample) for sample in subject.validation]
    results = []
    for sizes in cases(program.dims):
        places = [place for place, of_sample in enumerate(sizes_of) if of_sample == sizes]
        original, compressed, artifact = (
            [outputs[place] for place in places]
            for outputs in (subject.original_outputs, subject.compressed_outputs, found)
        )
        results.append(
            SizeResult(
                sizes=sizes,
                samples=len(places),
                cut=sizes in subject.cut,
                compression=compare(original, compressed),
                lowering=compare(compressed, artifact),
                end_to_end=compare(original, artifact),
            )
        )
    return tuple(results)


def size_checks(ran: Provenance, tolerance: float, results: Sequence[SizeResult]) -> list[Check]:
    """The rule of parity, for every output at every combination of sizes."""
    return [
        limits.lower_limit(
            f"parity of {name} at {describe(result.sizes)}",
            "dB against the original",
            Figure(value=result.end_to_end.outputs[name], provenance=ran),
            parity_floor(own, tolerance),
            "the file computes other numbers than the compressed graph at this size: report it with the model's "
            "definition",
        )
        for result in results
        for name, own in result.compression.outputs.items()
    ]


def size_notes(results: Sequence[SizeResult]) -> list[str]:
    """A sentence on sizes that the data did not have as such."""
    cut = "; ".join(describe(result.sizes) for result in results if result.cut)
    return [f"The data had no samples of these sizes, so longer ones were cut: {cut}."] if cut else []
