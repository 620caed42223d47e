"""What a .pte file holds: the layers inside XNNPACK's delegates, and the portable kernels between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from edgewright.targets.accounting import (
    Step,
    account,
    convolution_macs,
    matmul_macs,
    transposed_convolution_macs,
)
from edgewright.targets.base import Inspection
from edgewright.targets.executorch.delegate import Layer, read_delegate
from edgewright.targets.findings import TensorFact

DTYPES = {
    "BYTE": "uint8",
    "CHAR": "int8",
    "SHORT": "int16",
    "INT": "int32",
    "LONG": "int64",
    "HALF": "float16",
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "BOOL": "bool",
    "BFLOAT16": "bfloat16",
}
WIDTHS = {"bool": 1}


@dataclass
class _Contents:
    """What is gathered on the way through a file: computed values, constants, and the steps."""

    activations: dict[str, TensorFact] = field(default_factory=dict)
    constants: dict[str, TensorFact] = field(default_factory=dict)
    by_dtype: dict[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def store(self, fact: TensorFact) -> None:
        """A constant; one that several layers share counts once."""
        if fact.name not in self.constants:
            self.constants[fact.name] = fact
            self.by_dtype[fact.dtype] = self.by_dtype.get(fact.dtype, 0) + fact.bytes


def inspect_pte(path: Path) -> Inspection:
    """Read a file of our own or of others; a delegate other than XNNPACK's is one operation without figures."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    file = deserialize_pte_binary(path.read_bytes())
    plan = next(plan for plan in file.program.execution_plan if plan.name == "forward")
    found = _Contents()
    for place, value in enumerate(plan.values):
        if type(value.val).__name__ == "Tensor":
            _add_tensor(found, str(place), value.val, file.program.constant_buffer)
    for place, instruction in enumerate(plan.chains[0].instructions):
        call = instruction.instr_args
        if type(call).__name__ == "KernelCall":
            found.steps.append(_kernel(plan, call, place))
        elif type(call).__name__ == "DelegateCall":
            delegate = plan.delegates[call.delegate_index]
            payload = file.program.backend_delegate_data[delegate.processed.index].data
            outer = [str(argument) for argument in call.args]
            if delegate.id == "XnnpackBackend":
                _add_delegate(found, payload, f"xnnpack_{call.delegate_index}", outer, file.named_data)
            else:
                found.steps.append(Step(f"{delegate.id}_{place}", delegate.id, "unknown", 0, tuple(outer), ()))
    version = f"ExecuTorch program version {file.program.version}"
    sizes, constants = (
        {fact.name: fact.bytes for fact in facts.values()} for facts in (found.activations, found.constants)
    )
    facts = found.constants | found.activations
    return account(version, found.steps, sizes, constants, found.by_dtype, tensors=facts)


def _add_tensor(found: _Contents, name: str, tensor: Any, buffers: Any) -> None:
    dtype = DTYPES.get(tensor.scalar_type.name, tensor.scalar_type.name.lower())
    if tensor.data_buffer_idx > 0 and tensor.allocation_info is None:
        found.store(TensorFact(name, dtype, tuple(tensor.sizes), len(buffers[tensor.data_buffer_idx].storage)))
    else:
        size = prod(tensor.sizes) * _width(dtype)
        found.activations[name] = TensorFact(name, dtype, tuple(tensor.sizes), size)


def _width(dtype: str) -> int:
    digits = "".join(character for character in dtype if character.isdigit())
    return WIDTHS.get(dtype, int(digits or 0) // 8)


def _add_delegate(found: _Contents, payload: bytes, name: str, outer: list[str], named: Any) -> None:
    """Layers of a delegate, its inner values under names of their own, its outer ones under the program's."""
    graph = read_delegate(payload, name, outer, named)
    found.activations = dict(graph.activations) | found.activations
    for fact in graph.constants.values():
        found.store(fact)
    for place, layer in enumerate(graph.layers):
        called, macs = f"{name}.{layer.op}_{place}", _layer_macs(layer)
        found.steps.append(
            Step(called, layer.op, layer.compute, macs, layer.reads, layer.writes, permutation=layer.permutation)
        )


def _layer_macs(layer: Layer) -> int:
    shapes, output = layer.shapes, layer.output_shape
    if layer.op in ("Conv2d", "DepthwiseConv2d"):  # the weight is [out, h, w, in], or [1, h, w, out]
        return prod(output) * prod(shapes[1][1:] if layer.op == "Conv2d" else shapes[1][:-1])
    if layer.op == "ConvTranspose2d":  # the weight is [out, h, w, in / groups]
        return prod(shapes[0]) * prod(shapes[1][:-1]) // layer.groups
    if layer.op == "FullyConnected":  # the weight is [out, in]
        return prod(output) * shapes[1][-1]
    if layer.op == "BatchMatrixMultiply":
        return matmul_macs(shapes[0], output)
    if layer.op == "ScaledDotProductAttention":
        return 2 * prod(shapes[0]) * shapes[1][-2]
    return 0


def _kernel(plan: Any, call: Any, place: int) -> Step:
    """A portable kernel: its arguments in the order of its schema, the results last and once more behind them."""
    operator = plan.operators[call.op_index]
    kind = operator.name.removeprefix("aten::")
    written = list(dict.fromkeys(_tensors(plan, call.args[-1:])))
    reads = [index for index in _tensors(plan, call.args[:-1]) if index not in written]
    values = [plan.values[index].val for index in reads]
    shapes = [list(value.sizes) for value in values]
    dtype = DTYPES.get(values[0].scalar_type.name, "unknown") if values else "none"
    macs = 0
    if kind == "convolution" and plan.values[call.args[6]].val.bool_val:
        macs = transposed_convolution_macs(shapes[0], shapes[1])
    elif kind == "convolution":
        macs = convolution_macs(plan.values[written[0]].val.sizes, shapes[1])
    elif kind in ("mm", "bmm", "linear", "addmm"):
        macs = matmul_macs(shapes[1 if kind == "addmm" else 0], plan.values[written[0]].val.sizes)
    return Step(f"{kind}_{place}", kind, dtype, macs, tuple(map(str, reads)), tuple(map(str, written)))


def _tensors(plan: Any, arguments: list[int]) -> Iterator[int]:
    """The tensors among the arguments of a call, those of lists included."""
    for index in arguments:
        value = plan.values[index].val
        if type(value).__name__ == "Tensor":
            yield index
        elif type(value).__name__ in ("TensorList", "OptionalTensorList"):
            yield from (item for item in value.items if item >= 0)
