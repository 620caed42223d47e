"""Dimensions that stay open: their names, their bounds, and what may be asked of them. Imports nothing heavy."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from edgewright.errors import ShapeError

Shape = tuple[int | str, ...]
Sizes = dict[str, int]
MOST_CASES = 64
SHAPES = "edgewright.shapes"  # metadata of a file with open dimensions: `OpenShapes.text()`


@dataclass(frozen=True)
class Dim:
    """One open dimension of a program, the same size wherever its name stands.

    Args:
        min, max: the sizes that a program takes, both included; 1 <= min < max.
        sizes: the sizes that formats with fixed shapes get a graph for, ascending, between min and max. Empty: none.
    """

    name: str
    min: int
    max: int
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        expected = "1 <= min < max, and ascending sizes between them"
        inside = all(self.min <= size <= self.max for size in self.sizes)
        if not (1 <= self.min < self.max and inside and list(self.sizes) == sorted(set(self.sizes))):
            raise ShapeError(f"the dimension {self.name!r} has impossible bounds", got=self, expected=expected)

    @property
    def checked(self) -> tuple[int, ...]:
        """The sizes that validation runs: the listed ones, or the least, the largest and one between."""
        return self.sizes or tuple(dict.fromkeys((self.min, (self.min + self.max) // 2, self.max)))


class Shaped(Protocol):
    @property
    def shape(self) -> Sequence[int]: ...


class Port(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Shape: ...


def cases(dims: Sequence[Dim]) -> list[Sizes]:
    """Every combination of the dimensions' checked sizes, ascending; the last is the largest."""
    found = [dict(zip((dim.name for dim in dims), sizes, strict=True)) for sizes in _products(dims)]
    if len(found) > MOST_CASES:
        raise ShapeError(
            "too many combinations of sizes", got=len(found), expected=f"at most {MOST_CASES}", do="list fewer sizes"
        )
    return found


def _products(dims: Sequence[Dim]) -> Iterable[tuple[int, ...]]:
    return itertools.product(*(dim.checked for dim in dims))


def sized(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """An input's shape at given sizes."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in shape)


def describe(sizes: Mapping[str, int]) -> str:
    """ "batch=4, sequence=16", for messages and reports."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


@dataclass(frozen=True)
class OpenShapes:
    """The inputs of a program or of a file, with the dimensions that are open in them.

    Args:
        listed: whether only the listed sizes of a dimension can run (a file with one graph a size).
    """

    inputs: Mapping[str, Shape]
    dims: tuple[Dim, ...]
    listed: bool = False

    @staticmethod
    def of(ports: Iterable[Port], dims: tuple[Dim, ...], *, listed: bool = False) -> OpenShapes:
        return OpenShapes({port.name: port.shape for port in ports}, dims, listed)

    @staticmethod
    def parse(text: str | None) -> OpenShapes:
        """What `text` gave, from the metadata of a file; no open dimension where the file has none."""
        content = json.loads(text) if text else {"inputs": {}, "dims": []}
        dims = tuple(Dim(**{**dim, "sizes": tuple(dim["sizes"])}) for dim in content["dims"])
        inputs = {name: tuple(shape) for name, shape in content["inputs"].items()}
        return OpenShapes(inputs, dims, content.get("listed", False))

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def axes(self) -> dict[str, dict[int, Dim]]:
        """As `capture(dynamic_shapes=...)` takes it."""
        dims = {dim.name: dim for dim in self.dims}
        return {
            name: {axis: dims[size] for axis, size in enumerate(shape) if isinstance(size, str) and size in dims}
            for name, shape in self.inputs.items()
        }

    @property
    def largest(self) -> Sizes:
        return {dim.name: dim.max if not self.listed else dim.checked[-1] for dim in self.dims}

    def sizes(self, arrays: Mapping[str, Shaped]) -> Sizes:
        """The size of each open dimension in a set of inputs.

        Raises:
            ShapeError: a size out of bounds, two sizes for one dimension, or another fixed size.
        """
        found: Sizes = {}
        dims = {dim.name: dim for dim in self.dims}
        for name, wanted in self.inputs.items():
            shape = tuple(arrays[name].shape)
            for axis, (want, got) in enumerate(zip(wanted, shape, strict=False)):
                where = f"input {name!r}, axis {axis}"
                if isinstance(want, int):
                    if want != got:
                        raise ShapeError("an input has another shape", got=shape, expected=wanted, where=where)
                elif want not in dims:
                    continue  # a name without bounds: samples go one by one
                elif found.setdefault(want, got) != got:
                    raise ShapeError(f"two sizes for {want!r}", got=got, expected=found[want], where=where)
                else:
                    self._check(dims[want], got, where)
            if len(shape) != len(wanted):
                raise ShapeError("an input has another shape", got=shape, expected=wanted, where=f"input {name!r}")
        return found

    def _check(self, dim: Dim, size: int, where: str) -> None:
        if self.listed and size not in dim.checked:
            expected = f"one of {', '.join(map(str, dim.checked))}"
            do = "pad to the next of these sizes, or list this size and lower again"
        elif not dim.min <= size <= dim.max:
            expected, do = f"{dim.min} to {dim.max}", "capture with wider bounds, or cut the input"
        else:
            return
        raise ShapeError(
            f"a size that {dim.name!r} does not take", got=f"{dim.name}={size}", expected=expected, where=where, do=do
        )
