"""What a TFLite file holds: the dtypes of every operation's tensors are what its kernels compute in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import TargetError
from edgewright.targets.accounting import (
    Gathered,
    Step,
    account,
    convolution_macs,
    matmul_macs,
    transposed_convolution_macs,
)
from edgewright.targets.base import Inspection
from edgewright.targets.findings import LOW_PRECISION, Reader, TensorFact
from edgewright.targets.tflite.delegated import left_by_delegate
from edgewright.targets.tflite.versions import needed_minimum

BITS = {
    "FLOAT32": 32,
    "FLOAT16": 16,
    "INT64": 64,
    "INT32": 32,
    "INT16": 16,
    "INT8": 8,
    "UINT8": 8,
    "INT4": 4,
    "INT2": 2,
    "BOOL": 8,
    "FLOAT64": 64,
    "UINT32": 32,
    "UINT64": 64,
    "UINT16": 16,
}
CONVOLUTIONS = {"CONV_2D", "CONV_3D"}


WEIGHTED = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "BATCH_MATMUL")
RECURRENT = {"LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "SVDF", "RNN"}
IDENTIFIER = b"TFL3"


def inspect_tflite(path: Path) -> Inspection:
    """Read a file of our own or of others: its first subgraph and all that this one calls.

    Raises:
        TargetError: no TFLite model.
    """
    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    if content[4:8] != IDENTIFIER:
        raise TargetError(
            "the file holds no TFLite model", got=f"{content[4:8]!r} at byte 4", expected=IDENTIFIER, where=path
        )
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    contents = _Contents(model=model, kinds=_names(schema.BuiltinOperator), dtypes=_names(schema.TensorType))
    contents.read(0)
    steps = contents.steps
    left, trouble = left_by_delegate(path, [step.name for step in steps if "/" not in step.name])
    notes = [*contents.notes, *trouble]
    others = len(model.subgraphs) - len(contents.seen)
    if others:
        notes.append(f"{others} more subgraphs are entries of their own (signatures) and not counted")
    if "CUSTOM" in {kind.split(":")[0] for kind in (step.op for step in steps)}:
        notes.append("the bodies of custom operations are unknown: their products are not counted")
    hidden = sorted({step.op for step in steps if step.op in RECURRENT})
    if hidden:
        notes.append(f"multiply-accumulates inside of {', '.join(hidden)} are not counted")
    found = account(
        f"TFLite schema {model.version}",
        steps,
        contents.sizes,
        contents.constants,
        contents.by_dtype,
        None,
        contents.tensors,
    )
    readers = tuple(
        Reader(name, version, "the versions of its operators", "measured release by release with single operators")
        for name, version in needed_minimum(content).items()
    )
    versions = {"schema": str(model.version)} | contents.metadata()
    return replace(found, versions=versions, readers=readers, left_delegate=left, notes=tuple(notes))


@dataclass(kw_only=True)
class _Contents(Gathered):
    """What is gathered on the way through the subgraphs. Values are named "<subgraph>/<tensor>", by number."""

    model: Any
    kinds: dict[int, str]
    dtypes: dict[int, str]
    buffers: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)

    def read(self, number: int, prefix: str = "") -> None:
        """Add a subgraph's operations; those of the subgraphs that it calls stand before their caller."""
        self.seen.add(number)
        graph = self.model.subgraphs[number]
        for index, tensor in enumerate(graph.tensors):
            self._tensor(f"{number}/{index}", tensor)
        for place, operator in enumerate(graph.operators):
            kind = self._kind(operator)
            called = [index for index in _called(operator, kind) if 0 <= index < len(self.model.subgraphs)]
            for index in called:
                if index not in self.seen:
                    self.read(index, f"{prefix}{kind}_{place}/")
                    if kind != "STABLEHLO_COMPOSITE":
                        self.notes.append(f"the body of {prefix}{kind}_{place} is counted once")
            self.steps.append(self._step(graph, number, operator, kind, f"{prefix}{kind}_{place}"))

    def metadata(self) -> dict[str, str]:
        """What the converter wrote down about the runtime that it wrote for."""
        for entry in self.model.metadata or []:
            if bytes(entry.name) == b"min_runtime_version":
                value = bytes(self.model.buffers[entry.buffer].data).rstrip(b"\0").decode(errors="replace")
                return {"min_runtime_version": value} if value else {}
        return {}

    def _tensor(self, name: str, tensor: Any) -> None:
        dtype = self.dtypes[tensor.type]
        shape, stated = _shape(tensor), getattr(tensor, "shapeSignature", None)
        signature = tuple(int(size) for size in stated) if stated is not None and len(stated) else tuple(shape)
        if -1 in signature and not any(note.startswith("dynamic") for note in self.notes):
            self.notes.append("dynamic dimensions count as the sizes that the file starts with")
        size = (prod(abs(length) for length in shape) * BITS.get(dtype, 0) + 7) // 8  # -1 counts as 1
        buffer = self.model.buffers[tensor.buffer]
        stored = len(buffer.data) if buffer.data is not None else int(getattr(buffer, "size", None) or 0)
        label = bytes(tensor.name or b"").decode(errors="replace") or name
        if stored > 0:
            size = stored if tensor.sparsity is not None or getattr(buffer, "size", None) else size
            self.constants[name] = size
            if tensor.buffer not in self.buffers:
                self.buffers.add(tensor.buffer)
                self.by_dtype[dtype.lower()] = self.by_dtype.get(dtype.lower(), 0) + size
        else:
            self.sizes[name] = size
        self.tensors[name] = TensorFact(label, dtype.lower(), signature, size)

    def _kind(self, operator: Any) -> str:
        code = self.model.operatorCodes[operator.opcodeIndex]
        value = max(code.builtinCode, code.deprecatedBuiltinCode)
        kind = self.kinds.get(value, f"OPERATOR_{value}")
        return f"CUSTOM:{bytes(code.customCode or b'').decode(errors='replace')}" if kind == "CUSTOM" else kind

    def _step(self, graph: Any, number: int, operator: Any, kind: str, name: str) -> Step:
        reads = [index for index in operator.inputs if index >= 0] if operator.inputs is not None else []
        writes = list(operator.outputs) if operator.outputs is not None else []
        tensors, results = [graph.tensors[index] for index in reads], [graph.tensors[index] for index in writes]
        compute = _compute(kind, [self.dtypes[tensor.type].lower() for tensor in (*tensors[:2], *results[:1])])
        macs = _macs(kind, [_shape(tensor) for tensor in tensors], [_shape(tensor) for tensor in results], operator)
        permutation: tuple[int, ...] = ()
        if kind == "TRANSPOSE" and f"{number}/{reads[1]}" in self.constants:
            data = self.model.buffers[tensors[1].buffer].data
            permutation = tuple(int(axis) for axis in np.frombuffer(bytes(data), np.int32)) if data is not None else ()
        return Step(
            name,
            kind,
            compute,
            macs,
            tuple(f"{number}/{index}" for index in reads),
            tuple(f"{number}/{index}" for index in writes),
            permutation,
        )


def _called(operator: Any, kind: str) -> list[int]:
    """The subgraphs that an operation runs."""
    options = operator.builtinOptions if operator.builtinOptions is not None else operator.builtinOptions2
    names = ("thenSubgraphIndex", "elseSubgraphIndex", "condSubgraphIndex", "bodySubgraphIndex")
    found = [int(getattr(options, name)) for name in names if hasattr(options, name)]
    if kind == "STABLEHLO_COMPOSITE":
        found.append(int(options.decompositionSubgraphIndex))
    if kind == "CALL_ONCE":
        found.append(int(options.initSubgraphIndex))
    return found


@cache
def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _shape(tensor: Any) -> list[int]:
    return [int(size) for size in tensor.shape] if tensor.shape is not None else []


def _compute(kind: str, dtypes: list[str]) -> str:
    """Integer kernels have integer inputs and outputs. Float data with int8 weights is the hybrid (dynamic) kernel."""
    if not dtypes:
        return "none"
    if kind in WEIGHTED and dtypes[0] == "float32" and dtypes[1:2] and dtypes[1] in LOW_PRECISION:
        return "int8"
    if kind == "TRANSPOSE_CONV":
        return dtypes[-1]
    return "float32" if "float32" in dtypes[:1] else dtypes[0]


def _macs(kind: str, inputs: list[list[int]], outputs: list[list[int]], operator: Any) -> int:
    if kind in CONVOLUTIONS:  # the weight is [out, spatial..., in]
        return convolution_macs(outputs[0], inputs[1])
    if kind == "DEPTHWISE_CONV_2D":  # the weight is [1, h, w, out]
        return prod(outputs[0]) * prod(inputs[1][:-1])
    if kind == "TRANSPOSE_CONV":  # inputs: output shape, weight [out, h, w, in], data
        return transposed_convolution_macs(inputs[2], [1, inputs[1][0], *inputs[1][1:3]])
    if kind == "FULLY_CONNECTED":  # the weight is [out, in]
        return prod(outputs[0]) * inputs[1][-1]
    if kind == "BATCH_MATMUL":
        return matmul_macs(inputs[0], outputs[0], transposed=bool(getattr(operator.builtinOptions, "adjX", False)))
    return 0
