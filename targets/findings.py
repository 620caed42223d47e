"""What an inspection points at: tensors, float islands, layout changes, and the runtimes that read the file.

Plain data, free of torch and of every runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LOW_PRECISION = frozenset({"int2", "uint2", "int4", "uint4", "int8", "uint8"})
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


@dataclass(frozen=True)
class TensorFact:
    """One value or constant of a file.

    Args:
        shape: as the file states it; -1 for a dynamic dimension.
        bytes: as stored; a dynamic dimension counts as 1.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Island:
    """A maximal connected region of floating-point operations between a dequantize and a quantize step.

    Args:
        operations: their names, in the file's order.
        ops: how many of each kind.
        entries: quantized values that it reads (dequantized on the way, or by itself).
        exits: values of it that are quantized.
        macs: multiply-accumulates in it, all in float.
        open: it also reads a float value, or gives one to the outside, that is not quantized: a residual stream from
            the model's input to its output is one large open island.
    """

    operations: tuple[str, ...]
    ops: Mapping[str, int]
    entries: int
    exits: int
    macs: int = 0
    open: bool = False


@dataclass(frozen=True)
class LayoutChange:
    """A transpose or reorder that serves the memory layout, as far as the file alone tells.

    Args:
        bytes: what it reads and writes.
        why: what it stands beside, or what takes it back.
        stated: it stands in the file; False: the runtime on this machine adds it.
    """

    name: str
    op: str
    bytes: int
    why: str
    stated: bool = True


@dataclass(frozen=True)
class Reader:
    """The oldest version of a runtime that reads the file, as far as known ("" where it is not).

    Args:
        because: what in the file asks for it.
        source: where that is written.
    """

    runtime: str
    version: str
    because: str
    source: str
