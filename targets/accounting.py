"""The arithmetic that every inspector shares: multiply-accumulates, traffic, and activations alive at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from edgewright.targets.base import Inspection, Operation
from edgewright.targets.findings import TensorFact
from edgewright.targets.islands import find_islands
from edgewright.targets.layouts import find_layout_changes

LARGEST = 10


@dataclass(frozen=True)
class Step:
    """One operation of a file with the names of the values that it reads and writes; `permutation` of a transpose."""

    name: str
    op: str
    compute: str
    macs: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    permutation: tuple[int, ...] = ()


@dataclass
class Gathered:
    """What an inspector gathers on its way through a file.

    Args:
        sizes: bytes of computed values and inputs, by name; `constants`: of constants as stored.
        by_dtype: bytes of stored constants.
        notes: sentences on what was not counted, and why.
    """

    steps: list[Step] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    by_dtype: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, TensorFact] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Executed:
    """The graph that the runtime here executes, with its edges; dtypes and sizes (bytes) are of its values, by name."""

    steps: tuple[Step, ...]
    dtypes: Mapping[str, str]
    sizes: Mapping[str, int]
    constants: frozenset[str] = frozenset()

    @property
    def operations(self) -> tuple[Operation, ...]:
        return tuple(Operation(step.name, step.op, step.compute, step.macs) for step in self.steps)


def convolution_macs(output_shape: Sequence[int], weight_shape: Sequence[int]) -> int:
    """An OIHW weight (any number of spatial axes, I already divided by the groups) applied at every output element."""
    return prod(output_shape) * prod(weight_shape[1:])


def transposed_convolution_macs(input_shape: Sequence[int], weight_shape: Sequence[int]) -> int:
    """An IOHW weight (O already divided by the groups): every input element meets all of its channel's weights."""
    return prod(input_shape) * prod(weight_shape[1:])


def matmul_macs(left_shape: Sequence[int], output_shape: Sequence[int], *, transposed: bool = False) -> int:
    """[..., m, k] @ [..., k, n]: k for every output element."""
    return prod(output_shape) * (left_shape[-2] if transposed and len(left_shape) > 1 else left_shape[-1])


def attention_macs(query_shape: Sequence[int], key_shape: Sequence[int], value_shape: Sequence[int]) -> int:
    """[..., l, e], [..., s, e] and [..., s, v]: the scores and what they weigh."""
    return prod(query_shape[:-1]) * key_shape[-2] * (query_shape[-1] + value_shape[-1])


def account(
    format: str,
    steps: Sequence[Step],
    activation_bytes: Mapping[str, int],
    constant_bytes: Mapping[str, int],
    bytes_by_dtype: Mapping[str, int],
    executed: Executed | Sequence[Operation] | None = None,
    tensors: Mapping[str, TensorFact] | None = None,
) -> Inspection:
    """Sum up a file.

    Args:
        activation_bytes: size of each computed value (inputs included), by name; a name without size counts as 0.
        constant_bytes: size of each constant as stored, by name. What is computed from constants alone (dequantized
            weights) is no activation: runtimes fold it, or keep it stored.
        executed: what the runtime here executes, with edges where it tells them.
        tensors: dtype and shape of values and constants, by name; without them there are no islands.
    """
    tensors = tensors or {}
    folded = _folded(steps, constant_bytes)
    activation_bytes = {name: size for name, size in activation_bytes.items() if name not in folded}
    operations = tuple(
        Operation(
            step.name,
            step.op,
            step.compute,
            step.macs,
            sum(constant_bytes.get(name, 0) for name in step.reads),
            sum(activation_bytes.get(name, 0) for name in (*step.reads, *step.writes)),
        )
        for step in steps
    )
    edges = executed if isinstance(executed, Executed) else None
    dtypes = {name: fact.dtype for name, fact in tensors.items()}
    changes = find_layout_changes(steps, activation_bytes)
    if edges is not None:
        added = find_layout_changes(edges.steps, edges.sizes, stated=False)
        known = {change.name for change in changes}
        changes += tuple(change for change in added if change.name not in known)
    return Inspection(
        format,
        operations,
        dict(sorted(bytes_by_dtype.items())),
        executed.operations if isinstance(executed, Executed) else None if executed is None else tuple(executed),
        peak_activation_bytes(steps, activation_bytes),
        islands=find_islands(steps, dtypes, folded)
        if edges is None
        else find_islands(edges.steps, edges.dtypes, _folded(edges.steps, edges.constants)),
        islands_executed=edges is not None,
        layout_changes=changes,
        largest_constants=_largest(tensors, constant_bytes),
        largest_activations=_largest(tensors, activation_bytes),
    )


def _largest(tensors: Mapping[str, TensorFact], sizes: Mapping[str, int]) -> tuple[TensorFact, ...]:
    known = [tensors[name] for name, size in sizes.items() if size and name in tensors]
    return tuple(sorted(known, key=lambda fact: (-fact.bytes, fact.name))[:LARGEST])


def _folded(steps: Sequence[Step], constants: Iterable[str]) -> set[str]:
    """The values that depend on constants alone."""
    known = set(constants)
    for step in steps:
        if step.reads and known.issuperset(step.reads):
            known.update(step.writes)
    return known


def peak_activation_bytes(steps: Sequence[Step], sizes: Mapping[str, int]) -> int:
    """Largest sum of values alive at one step, in the given order; a value lives from its writer to its last reader."""
    last = {name: place for place, step in enumerate(steps) for name in step.reads}
    written = {name for step in steps for name in step.writes}
    alive = {name for name in last if name in sizes and name not in written}
    peak = 0
    for place, step in enumerate(steps):
        alive.update(name for name in step.writes if name in sizes)
        peak = max(peak, sum(sizes[name] for name in alive))
        alive = {name for name in alive if last.get(name, len(steps)) > place}
    return peak
