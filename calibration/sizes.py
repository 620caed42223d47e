"""Validation samples at every size that has to be shown: the user's own, cut or put together, never made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgewright.calibration.batches import Sample
from edgewright.errors import CalibrationError, ShapeError
from edgewright.pipeline.shapes import OpenShapes, Sizes, cases, describe

SAMPLES_A_CASE = 2


@dataclass(frozen=True)
class SizedSamples:
    """Samples of many sizes: first one of each case, the largest, the least, then the others; then the rest.

    Args:
        cut: the cases whose samples were cut from longer ones.
    """

    samples: list[Sample]
    cut: tuple[Sizes, ...] = ()


def spread_sizes(rows: Sequence[Sample], shapes: OpenShapes, key: str) -> SizedSamples:
    """Bring samples to each combination of the dimensions' checked sizes.

    A dimension that stands first counts samples: rows are put together along it. Along every other one, longer samples
    are cut at their end, the nearest ones in size first.

    Args:
        rows: samples of size 1 along the first dimension where that has a name.
        shapes: with at least one open dimension.
    Raises:
        CalibrationError: too few samples that are long enough; names the sizes.
    """
    wanted = cases(shapes.dims)
    ordered = [wanted[-1], *wanted[:1], *wanted[1:-1]]
    made = [_at(rows, shapes, sizes, key) for sizes in ordered]
    rounds = [found[number] for number in range(SAMPLES_A_CASE) for found, _ in made if number < len(found)]
    cut = tuple(sizes for sizes, (_, was_cut) in zip(ordered, made, strict=True) if was_cut)
    return SizedSamples([*rounds, *(row for row in rows if _runs_everywhere(row, shapes))], cut)


def _runs_everywhere(row: Sample, shapes: OpenShapes) -> bool:
    """Whether the sample as it is has sizes that every format takes."""
    try:
        found = shapes.sizes(row)
    except ShapeError:
        return False
    return all(not dim.sizes or found[dim.name] in dim.sizes for dim in shapes.dims)


def _at(rows: Sequence[Sample], shapes: OpenShapes, sizes: Sizes, key: str) -> tuple[list[Sample], bool]:
    """Up to two samples of these sizes, and whether any of them was cut."""
    stacked = [name for name, shape in shapes.inputs.items() if shape and isinstance(shape[0], str)]
    count = next((sizes[size] for name in stacked if (size := str(shapes.inputs[name][0])) in sizes), 1)
    slices = {
        name: (slice(None), *_slices(shape[1:], sizes)) if name in stacked else _slices(shape, sizes)
        for name, shape in shapes.inputs.items()
    }
    fitting = []
    for row in rows:
        lengths = [
            (row[name].shape[axis], part.stop)
            for name, parts in slices.items()
            for axis, part in enumerate(parts)
            if part.stop is not None
        ]
        if all(length >= stop for length, stop in lengths):
            fitting.append((sum(length - stop for length, stop in lengths), row))
    fitting.sort(key=lambda entry: entry[0])
    if len(fitting) < count:
        raise CalibrationError(
            f"too few samples to validate {describe(sizes)} on",
            got=f"{len(fitting)} of {len(rows)} samples are long enough",
            expected=f"at least {count}",
            where=key,
            do="give more or longer samples, or take other bounds or sizes under [model.dims]",
        )
    found = []
    for start in range(0, min(len(fitting), SAMPLES_A_CASE * count) - count + 1, count):
        group = [{name: row[name][slices[name]] for name in slices} for _, row in fitting[start : start + count]]
        found.append(
            {
                name: np.concatenate([row[name] for row in group]) if name in stacked else group[0][name]
                for name in slices
            }
        )
    return found, any(excess for excess, _ in fitting[: len(found) * count])


def _slices(shape: Sequence[int | str], sizes: Sizes) -> tuple[slice, ...]:
    return tuple(slice(sizes[size] if isinstance(size, str) and size in sizes else None) for size in shape)
