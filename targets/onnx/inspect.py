"""What an ONNX file holds, and what ONNX Runtime makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

from edgewright.targets.accounting import Step, account
from edgewright.targets.base import Inspection
from edgewright.targets.findings import Reader
from edgewright.targets.onnx.contents import Contents, Node, read_contents
from edgewright.targets.onnx.executed import executed_graph, stated_shapes
from edgewright.targets.onnx.kernels import FLOAT_KERNELS, INTEGER_KERNELS, product_macs

RECURRENT = {"LSTM", "GRU", "RNN"}
UNCOUNTED = {"Einsum", "Attention", "MultiHeadAttention", "GroupQueryAttention", "DynamicQuantizeLSTM"}
FUSED = {"Relu", "Clip", "Add", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu"}

# Opset of ai.onnx, version of the IR -> the oldest ONNX Runtime that knows it.
COMPATIBILITY = "onnxruntime.ai/docs/reference/compatibility.html (up to ONNX Runtime 1.20)"
OPSETS = {
    8: "0.1",
    9: "0.3",
    10: "0.4",
    11: "1.0",
    12: "1.3",
    13: "1.6",
    14: "1.8",
    15: "1.9",
    16: "1.11",
    17: "1.12",
    18: "1.14",
    19: "1.15",
    20: "1.17",
    21: "1.18",
}
IRS = {3: "0.1", 4: "0.4", 5: "0.4", 6: "1.0", 7: "1.3", 8: "1.9", 9: "1.16", 10: "1.18"}


def inspect_onnx(path: Path) -> Inspection:
    """Read a file of our own or of others; the executed graph is there when ONNX Runtime runs the file on zeros.

    Raises:
        TargetError: not an ONNX model, or its external data is missing or too short.
    """
    contents = read_contents(path)
    notes = list(contents.notes)
    unknown = [name for node in contents.nodes for name in node.writes if name and name not in contents.tensors]
    if unknown:
        contents, more = stated_shapes(contents)
        notes += more
    steps = _steps(contents)
    uncounted = sorted({node.op for node in contents.nodes if node.op in UNCOUNTED})
    if uncounted:
        notes.append(f"multiply-accumulates inside of {', '.join(uncounted)} are not counted")
    executed, trouble = executed_graph(contents, _macs_by_result(steps))
    notes += trouble
    versions = {**contents.opsets, "IR": contents.ir}
    title = ", ".join(f"{name} {version}" for name, version in versions.items())
    found = account(
        f"ONNX {title}",
        steps,
        contents.activation_bytes,
        contents.constant_bytes,
        contents.bytes_by_dtype,
        executed,
        contents.tensors,
    )
    return replace(found, versions=versions, readers=_readers(contents), notes=tuple(notes))


def _readers(contents: Contents) -> tuple[Reader, ...]:
    """What the file's opset and IR ask for; operations of other domains may ask for more."""
    opset, ir = int(contents.opsets.get("opset", "7")), int(contents.ir)
    asked = [OPSETS.get(max(opset, 8)), IRS.get(max(ir, 3))]
    known = [version for version in asked if version]
    because = f"opset {opset}, IR {ir}"
    others = [domain for domain in contents.opsets if domain != "opset"]
    if others:
        because += f"; operations of {', '.join(others)} may need more"
    if len(known) < 2:
        return (Reader("ONNX Runtime", "", f"{because}: newer than the table, so newer than 1.20", COMPATIBILITY),)
    oldest = max(known, key=lambda version: tuple(map(int, version.split("."))))
    return (Reader("ONNX Runtime", oldest, because, COMPATIBILITY),)


def _steps(contents: Contents) -> list[Step]:
    makers = {name: node for node in contents.nodes for name in node.writes}
    readers: dict[str, list[Node]] = {}
    for node in contents.nodes:
        for name in node.reads:
            readers.setdefault(name, []).append(node)

    def source(name: str) -> Node | None:
        """What makes a value; of a transposed weight, what dequantizes it: ONNX Runtime turns it while it loads."""
        maker = makers.get(name)
        first = makers.get(maker.reads[0]) if maker is not None and maker.op == "Transpose" else None
        return first if first is not None and first.reads[0] in contents.constant_bytes else maker

    def integer(node: Node) -> bool:
        """Q/DQ around a product: the form that runtimes compute in integers."""
        sources = [source(name) for name in node.reads[:2]]
        if any(source is None or source.op != "DequantizeLinear" for source in sources):
            return False
        users = readers.get(node.writes[0], [])
        if len(users) == 1 and users[0].op in ("Relu", "Clip", "Add"):
            users = readers.get(users[0].writes[0], [])
        return any(user.op == "QuantizeLinear" for user in users)

    steps = []
    for node in contents.nodes:
        compute = "int8" if node.op in INTEGER_KERNELS or (node.op in FLOAT_KERNELS and integer(node)) else ""
        reads, writes = tuple(name for name in node.reads if name), tuple(name for name in node.writes if name)
        permutation = tuple(node.attributes.get("perm", ())) if node.op == "Transpose" else ()
        if node.op == "Transpose" and not permutation and reads and reads[0] in contents.tensors:
            permutation = tuple(reversed(range(len(contents.tensors[reads[0]].shape))))
        steps.append(
            Step(
                node.name,
                node.op,
                compute or _dtype(node, contents),
                _node_macs(node, contents),
                reads,
                writes,
                permutation,
            )
        )
    return steps


def _dtype(node: Node, contents: Contents) -> str:
    """The dtype that an operation computes in: of its result, or of its data where shape inference knew neither."""
    if node.op in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear") or node.op.startswith("QLinear"):
        return "int8"
    if node.op == "MatMulNBits":
        return "int8" if node.attributes.get("accuracy_level") == 4 else "float32"
    for name in (*node.writes[:1], *node.reads[:1]):
        if name in contents.tensors:
            return contents.tensors[name].dtype
    return "float32"


def _node_macs(node: Node, contents: Contents) -> int:
    def shape(name: str) -> list[int]:
        fact = contents.tensors.get(name)
        return [max(size, 1) for size in fact.shape] if fact else []

    if node.op in RECURRENT and len(node.reads) > 2:  # data [time, batch, in], weights of all gates and directions
        return prod(shape(node.reads[0])[:2]) * (prod(shape(node.reads[1])) + prod(shape(node.reads[2])))
    if node.op == "MatMulNBits":
        return prod(shape(node.writes[0])) * int(node.attributes.get("K", 0))
    if node.op not in FLOAT_KERNELS and node.op not in INTEGER_KERNELS:
        return 0
    place = FLOAT_KERNELS.get(node.op, INTEGER_KERNELS.get(node.op, 1))
    weight = shape(node.reads[place]) if place < len(node.reads) else []
    data = shape(node.reads[0])
    if node.attributes.get("transA") and len(data) >= 2:
        data = [*data[:-2], data[-1], data[-2]]
    return product_macs(node.op, data, weight, shape(node.writes[0]))


def _macs_by_result(steps: list[Step]) -> Mapping[str, int]:
    """The products of the file by the value that they write, or that an activation fused into them writes."""
    found: dict[str, int] = {}
    for step in steps:
        macs = step.macs or max((found.get(name, 0) for name in step.reads if step.op in FUSED), default=0)
        found |= {name: macs for name in step.writes if macs}
    return found
