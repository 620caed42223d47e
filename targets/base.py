"""What every target gives: a lowering, an inspection, a session; and what each of them says.

This module imports neither torch nor a runtime, so that the process that measures a runtime's memory holds nothing
else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from edgewright.pipeline.passes.base import Pass
    from edgewright.pipeline.program import Program

Arrays = dict[str, "np.ndarray[Any, Any]"]

LOW_PRECISION = frozenset({"int2", "uint2", "int4", "uint4", "int8", "uint8"})


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
    """

    format: str
    operations: tuple[Operation, ...]
    bytes_by_dtype: Mapping[str, int]
    executed: tuple[Operation, ...] | None = None
    peak_activation_bytes: int = 0

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
class Capabilities:
    """What a format can express, as data; the compress stage asks it before it starts.

    Args:
        schemes: the quantization schemes with a native form.
        integer_boundary: whether outer inputs and outputs can be integers where the graph quantizes them.
        minimum: the oldest runtime that opens our files, by name.
        tolerance_db: the least SQNR of an artifact against its compressed graph where the graph itself is exact
            float (no quantization noise to compare with).
        half_tolerance_db: the same for a program with float16 weights: Core ML then computes in float16, too.
    """

    schemes: frozenset[str]
    integer_boundary: bool = False
    minimum: Mapping[str, str] = field(default_factory=dict)
    tolerance_db: float = 60.0
    half_tolerance_db: float = 60.0

    def tolerance_for(self, weight_dtypes: Iterable[str]) -> float:
        """The tolerance for a program that stores weights in these dtypes."""
        return self.half_tolerance_db if "float16" in weight_dtypes else self.tolerance_db


class Target(Protocol):
    """One runtime: a folder with the same four files, and this object in its `__init__`."""

    name: ClassVar[str]
    extra: ClassVar[str]  # the pip extra that brings what the target needs
    modules: ClassVar[tuple[str, ...]]  # what must be importable, in import names
    capabilities: ClassVar[Capabilities]

    def legalize(self) -> tuple[Pass, ...]:
        """The rewrites that this format needs, in order."""
        ...

    def refusals(self, program: Program) -> tuple[Refusal, ...]:
        """All that the target cannot take, at once; empty when it takes the program."""
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
