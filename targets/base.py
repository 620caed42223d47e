"""What every target gives: a lowering, an inspection, a session; and what each of them says.

This module imports neither torch nor a runtime, so that the process that measures a runtime's memory holds nothing
else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from edgewright.targets.findings import LOW_PRECISION as LOW_PRECISION  # others take it from here
from edgewright.targets.findings import Island, LayoutChange, Reader, TensorFact

if TYPE_CHECKING:
    from edgewright.pipeline.passes.base import Pass
    from edgewright.pipeline.program import Program

Arrays = dict[str, "np.ndarray[Any, Any]"]


def release_of(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what follows them: "2024.1.0rc1" is (2024, 1, 0)."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in numbers[0].split(".")) if numbers else ()


@dataclass(frozen=True)
class Refusal:
    """Why a target does not take a program: data, collected and raised once.

    Args:
        node: the graph node (or module path) at fault.
        op: its operation.
        reason: what the format or the runtime lacks.
        way_out: what the user can do.
        source: the user's own source line, where known.
    """

    target: str
    node: str
    op: str
    reason: str
    way_out: str
    source: str = ""


@dataclass(frozen=True)
class Artifact:
    """The files of one lowered program. `main` is what a runtime opens (a file, or an .mlpackage folder)."""

    target: str
    main: Path
    files: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True)
class Operation:
    """One operation of an artifact, as the file states it or as the runtime executes it.

    Args:
        compute: the dtype that its arithmetic runs in: "float32", "float16", "bfloat16", "int8", "uint8", "int4",
            "int32", "int64", "bool", ...; an operation that reads int8 weights but multiplies in float32 is "float32".
        macs: multiply-accumulates of one inference (convolutions and matrix products; 0 for everything else).
        weight_bytes: bytes of constants that it reads, as stored.
        activation_bytes: bytes of activations that it reads and writes.
    """

    name: str
    op: str
    compute: str
    macs: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0


@dataclass(frozen=True)
class Inspection:
    """What is really in a file.

    Args:
        format: the format with its version, such as "ONNX opset 21, IR 10".
        operations: as the file states them, in order.
        executed: as the runtime on this machine executes them, where it tells; None where it does not.
        bytes_by_dtype: stored constants by dtype.
        peak_activation_bytes: the largest sum of activations alive at once, in the file's order.
        minimum: the oldest runtime that opens this very file, where its operations need more than the target promises.
        versions: of the format's parts, such as {"opset": "21", "IR": "10"}.
        readers: the oldest runtimes that read the file, each with what asks for it.
        islands: float islands; of the executed graph where `islands_executed`, else of the file.
        layout_changes: transposes that serve the layout, in the file and added by the runtime here.
        largest_constants, largest_activations: the ten largest, largest first.
        left_delegate: names of operations that the runtime's delegate here (XNNPACK) leaves to plain kernels; None
            where no runtime told.
        notes: sentences on what was not counted, and why.
    """

    format: str
    operations: tuple[Operation, ...]
    bytes_by_dtype: Mapping[str, int]
    executed: tuple[Operation, ...] | None = None
    peak_activation_bytes: int = 0
    minimum: Mapping[str, str] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    readers: tuple[Reader, ...] = ()
    islands: tuple[Island, ...] = ()
    islands_executed: bool = False
    layout_changes: tuple[LayoutChange, ...] = ()
    largest_constants: tuple[TensorFact, ...] = ()
    largest_activations: tuple[TensorFact, ...] = ()
    left_delegate: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(content: Mapping[str, Any]) -> Inspection:
        """An inspection from plain data: what `dataclasses.asdict` made of one, also after a trip through JSON."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        for name, kind in _PARTS.items():
            if values.get(name) is not None:
                values[name] = tuple(
                    kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})
                    for entry in values[name]
                )
        return Inspection(**values)

    @property
    def macs(self) -> int:
        return sum(operation.macs for operation in self.operations)

    @property
    def low_precision_share(self) -> float:
        """Share of multiply-accumulates in 8 bits or fewer: of the executed graph where known, else of the file."""
        operations = self.operations if self.executed is None else self.executed
        total = sum(operation.macs for operation in operations)
        low = sum(operation.macs for operation in operations if operation.compute in LOW_PRECISION)
        return low / total if total else 0.0


# What the tuples of an inspection hold.
_PARTS: Mapping[str, type] = {
    "operations": Operation,
    "executed": Operation,
    "readers": Reader,
    "islands": Island,
    "layout_changes": LayoutChange,
    "largest_constants": TensorFact,
    "largest_activations": TensorFact,
}


@dataclass(frozen=True)
class PortEncoding:
    """How a file holds an outer input or output that the model has in float: real = scale * (stored - zero_point)."""

    dtype: str
    scale: float
    zero_point: int


@runtime_checkable
class Session(Protocol):
    """An open artifact. Names, layouts and dtypes at this surface are the model's own.

    `provenance` is "measured-on-host" when the format's own runtime executes the file here, and "reference" when our
    interpreter does; `runtime` names it with its version.
    """

    provenance: str
    runtime: str

    @property
    def encodings(self) -> Mapping[str, PortEncoding]:
        """The outer ports that the file has in integers; the session converts."""
        ...

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays: ...

    def close(self) -> None: ...

    def __enter__(self) -> Session: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True)
class PinnedRuntime:
    """A runtime that pip installs by version, so that files can be run in just that one.

    Args:
        distribution: its name for pip.
        module: what has to be importable once it is installed.
        script: a module of the target that imports numpy and this runtime alone, so that it works where edgewright is
            not installed; its `open_alone(path, threads, dtypes)` gives a session, `dtypes` being the model's own by
            input and output name.
        numpy2_since: the first version whose wheels work with numpy 2.
        counts_as: the name in `minimum` whose version numbers it has; empty for none.
    """

    distribution: str
    module: str
    script: Path
    numpy2_since: str
    counts_as: str = ""


@dataclass(frozen=True)
class Level:
    """What files keep to, so that the named runtimes and all newer ones open them.

    Args:
        minimum: those runtimes, by name, such as {"iOS": "16", "macOS": "13"}.
        format: versions of the format's parts, such as {"opset": 19, "ir": 9}.
        schemes: the quantization schemes with a native form there.
    """

    minimum: Mapping[str, str]
    format: Mapping[str, int]
    schemes: frozenset[str]


@dataclass(frozen=True)
class Capabilities:
    """What a format can express, as data; the compress stage asks it before it starts.

    Args:
        schemes: the quantization schemes with a native form.
        integer_boundary: whether outer inputs and outputs can be integers where the graph quantizes them.
        minimum: the oldest runtime that opens our files, by name.
        runtimes: those that can be installed by version, to run files in.
        levels: what older and newer runtimes can express, oldest first; a target that has some takes one of them as
            `level` when it is made.
        tolerance_db: the least SQNR of an artifact against its compressed graph where the graph itself is exact
            float (no quantization noise to compare with).
        half_tolerance_db: the same for a program with float16 weights: Core ML then computes in float16, too.
        integer_products: whether products of two activations run in integers where the graph has them so.
        signed_scales: whether the runtime computes weights of few bits with scales below 0.
        dynamic_convolutions: whether it rounds what convolutions read as it comes, as the graph does, and is faster so.
        open_sizes: what becomes of a program's open dimensions: "range" (one graph for every size between their
            bounds), "listed" (one graph for each listed size), "none" (fixed shapes only).
    """

    schemes: frozenset[str]
    integer_boundary: bool = False
    minimum: Mapping[str, str] = field(default_factory=dict)
    tolerance_db: float = 60.0
    half_tolerance_db: float = 60.0
    runtimes: tuple[PinnedRuntime, ...] = ()
    levels: tuple[Level, ...] = ()
    integer_products: bool = True
    signed_scales: bool = False
    dynamic_convolutions: bool = False
    open_sizes: Literal["range", "listed", "none"] = "none"

    def at(self, level: Level | None) -> Capabilities:
        """The same at one of its levels."""
        return self if level is None else replace(self, schemes=level.schemes, minimum=level.minimum)

    def tolerance_for(self, weight_dtypes: Iterable[str]) -> float:
        """The tolerance for a program that stores weights in these dtypes."""
        return self.half_tolerance_db if "float16" in weight_dtypes else self.tolerance_db


class Target(Protocol):
    """One runtime: a folder with the same four files, and this object in its `__init__`."""

    name: ClassVar[str]
    extra: ClassVar[str]  # the pip extra that brings what the target needs
    suffix: ClassVar[str]  # of what a runtime opens: inspection knows files by it
    modules: ClassVar[tuple[str, ...]]  # what must be importable, in import names

    @property
    def capabilities(self) -> Capabilities: ...

    def legalize(self) -> tuple[Pass, ...]:
        """The rewrites that this format needs, in order."""
        ...

    def refusals(self, program: Program) -> tuple[Refusal, ...]:
        """All that the target cannot take, at once; empty when it takes the program."""
        ...

    def preload(self) -> None:
        """Import what `lower` does, in a process that forks: nothing whose threads a fork would miss."""
        ...

    def lower(self, program: Program, folder: Path, *, integer_boundary: bool = False) -> Artifact:
        """Write the files into `folder` (which exists). The same program gives the same bytes.

        Args:
            integer_boundary: leave quantized outer inputs and outputs in integers, for targets that can.
        """
        ...

    def find(self, folder: Path) -> Artifact:
        """The artifact that `lower` wrote into `folder`."""
        ...

    def inspect(self, artifact: Artifact) -> Inspection: ...

    def open(self, artifact: Artifact, threads: int = 1) -> Session: ...
