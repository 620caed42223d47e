"""Float islands: what an integer file still computes in float between a dequantize and a quantize step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from edgewright.targets.findings import FLOATS, LOW_PRECISION, Island

if TYPE_CHECKING:
    from edgewright.targets.accounting import Step

BOUNDARIES = frozenset({"quantize", "quantizelinear", "dynamicquantizelinear", "dequantize", "dequantizelinear"})
FAKE = "fakequantize"  # quantizes and dequantizes at once


def plain(op: str) -> str:
    """CONV_2D, Conv2d and conv_2d are one name."""
    return "".join(letter for letter in op.lower() if letter.isalnum())


def find_islands(steps: Sequence[Step], dtypes: Mapping[str, str], folded: Container[str]) -> tuple[Island, ...]:
    """Every maximal connected region of float operations that both reads and feeds quantized values.

    Args:
        dtypes: of the values, by name.
        folded: values that depend on constants alone; what computes them is no operation of an inference.
    """
    graph = _Graph(steps, dtypes, folded)
    found = [_island([steps[place] for place in region], graph) for region in _regions(graph)]
    return tuple(island for island in found if island.entries and island.exits)


class _Graph:
    """Who writes and who reads each value, and which of them are members of a float region."""

    def __init__(self, steps: Sequence[Step], dtypes: Mapping[str, str], folded: Container[str]) -> None:
        self.steps, self.dtypes, self.folded = steps, dtypes, folded
        self.writer = {name: place for place, step in enumerate(steps) for name in step.writes}
        self.readers: dict[str, list[int]] = {}
        for place, step in enumerate(steps):
            for name in step.reads:
                self.readers.setdefault(name, []).append(place)
        self.member = [self._is_member(step) for step in steps]

    def _is_member(self, step: Step) -> bool:
        if step.compute not in FLOATS or plain(step.op) in BOUNDARIES | {FAKE}:
            return False
        return any(name not in self.folded and self.is_float(name) for name in (*step.reads, *step.writes))

    def is_float(self, name: str) -> bool:
        return self.dtypes.get(name) in FLOATS

    def is_quantized(self, name: str) -> bool:
        """8 bits or fewer, or the 32-bit sums of an integer product before they are scaled."""
        if name in self.folded:
            return False
        dtype = self.dtypes.get(name)
        if dtype == "int32" and name in self.writer:
            step = self.steps[self.writer[name]]
            return step.macs > 0 and step.compute in LOW_PRECISION
        return dtype in LOW_PRECISION

    def dequantizes(self, place: int) -> bool:
        step = self.steps[place]
        return plain(step.op) == FAKE or any(self.is_quantized(name) for name in step.reads)

    def quantizes(self, place: int) -> bool:
        step = self.steps[place]
        return plain(step.op) == FAKE or any(self.is_quantized(name) for name in step.writes)


def _regions(graph: _Graph) -> Iterable[list[int]]:
    """Members joined through float values, each region in the file's order."""
    parent = list(range(len(graph.steps)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    for name, place in graph.writer.items():
        if not graph.member[place] or not graph.is_float(name):
            continue
        for reader in graph.readers.get(name, ()):
            if graph.member[reader]:
                low, high = sorted((root(place), root(reader)))
                parent[high] = low
    regions: dict[int, list[int]] = {}
    for place, member in enumerate(graph.member):
        if member:
            regions.setdefault(root(place), []).append(place)
    return regions.values()


def _island(region: Sequence[Step], graph: _Graph) -> Island:
    inside = {name for step in region for name in step.writes}
    entries, exits, open_ = set(), set(), False
    for name in dict.fromkeys(name for step in region for name in step.reads):
        if name in inside or name in graph.folded:
            continue
        if graph.is_quantized(name):
            entries.add(name)
        elif graph.is_float(name):
            if name in graph.writer and graph.dequantizes(graph.writer[name]):
                entries.add(name)
            else:
                open_ = True
    for name in inside:
        outside = [place for place in graph.readers.get(name, ()) if not graph.member[place]]
        if graph.is_quantized(name) or any(graph.quantizes(place) for place in outside):
            exits.add(name)
        elif graph.is_float(name) and (outside or name not in graph.readers):
            open_ = True
    return Island(
        tuple(step.name for step in region),
        dict(sorted(Counter(step.op for step in region).items())),
        len(entries),
        len(exits),
        sum(step.macs for step in region),
        open_,
    )
