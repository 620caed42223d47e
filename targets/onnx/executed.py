"""What ONNX Runtime makes of a file: the profile of a real run, with every kernel's dtypes and shapes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.targets.accounting import Executed, Step
from edgewright.targets.findings import TensorFact
from edgewright.targets.onnx.contents import Contents, fact
from edgewright.targets.onnx.kernels import FLOAT_KERNELS, INTEGER_KERNELS, product_macs

PROFILE_DTYPES = {"float": "float32", "double": "float64"}
SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class _Run:
    """Kernel events by node name, in order, and the graph after optimization."""

    events: tuple[tuple[str, Mapping[str, Any]], ...]
    graph: Any


def stated_shapes(contents: Contents) -> tuple[Contents, list[str]]:
    """Add the shapes that ONNX's inference does not know (operations of other domains): those of an unoptimized run."""
    run, trouble = _profile(contents, optimize=False)
    tensors = dict(contents.tensors)
    events = dict(run.events) if run else {}
    for node in contents.nodes:
        entries = events.get(node.name, {}).get("output_type_shape", [])
        written = [name for name in node.writes if name]
        for name, entry in zip(written, entries, strict=False):
            dtype, shape = _typed(entry)
            tensors.setdefault(name, TensorFact(name, dtype, shape, prod(shape) * _itemsize(dtype)))
    missing = sum(name not in tensors for node in contents.nodes for name in node.writes if name)
    if missing:
        trouble = [*trouble, f"the shapes of {missing} values are unknown: their bytes and products count as 0"]
    return replace(contents, tensors=tensors), trouble


def executed_graph(contents: Contents, stated: Mapping[str, int]) -> tuple[Executed | None, list[str]]:
    """One profiled run on zeros, joined with the optimized graph by node name: the profile tells each kernel's dtypes
    and activation shapes, the graph its edges and the shapes of the weights.

    Returns:
        None, and why, when ONNX Runtime here does not run the file.
    """
    run, trouble = _profile(contents, optimize=True)
    if run is None:
        return None, trouble
    nodes = {node.name: node for node in run.graph.node}
    weights = {initializer.name: list(initializer.dims) for initializer in run.graph.initializer}
    steps: list[Step] = []
    dtypes: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for name, arguments in run.events:
        node = nodes.get(name)
        written = [value for value in node.output if value] if node is not None else []
        for value, entry in zip(written, arguments["output_type_shape"], strict=False):
            dtypes[value], shape = _typed(entry)
            sizes[value] = prod(shape) * _itemsize(dtypes[value])
        steps.append(_step(name, arguments, node, weights, stated))
    for value in run.graph.input:
        dtypes[value.name] = fact(value.name, value.type.tensor_type.elem_type, ()).dtype
    return Executed(tuple(steps), dtypes, sizes, frozenset(weights)), trouble


def _source(contents: Contents) -> str | bytes:
    """The file, or the same model with a name for every node: by names the profile is joined with the graph."""
    names = [node.name for node in contents.model.graph.node]
    if all(names) and len(set(names)) == len(names):
        return str(contents.path)
    model = type(contents.model).FromString(contents.model.SerializeToString())
    for place, node in enumerate(model.graph.node):
        node.name = node.name if node.name and names.count(node.name) == 1 else f"{node.op_type}_{place}"
    named: bytes = model.SerializeToString()
    return named


def _profile(contents: Contents, *, optimize: bool) -> tuple[_Run | None, list[str]]:
    import onnx
    import onnxruntime

    from edgewright.targets.onnx.run import DTYPES

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(contents.path.resolve().parent)
        )
        try:
            session = onnxruntime.InferenceSession(_source(contents), options, providers=["CPUExecutionProvider"])
            feed = {
                port.name: np.zeros([size if isinstance(size, int) else 1 for size in port.shape], DTYPES[port.type])
                for port in session.get_inputs()
            }
            session.run(None, feed)
        except Exception as error:  # noqa: BLE001  (its errors share no class; a file of others may fail in any way)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            return None, [f"ONNX Runtime {onnxruntime.__version__} does not run the file on zeros: {reason}"]
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    kernels = [event for event in events if event.get("name", "").endswith(SUFFIX)]
    return _Run(tuple((event["name"].removesuffix(SUFFIX), event["args"]) for event in kernels), graph), []


def _typed(entry: Mapping[str, list[int]]) -> tuple[str, tuple[int, ...]]:
    dtype, shape = next(iter(entry.items()))
    return PROFILE_DTYPES.get(dtype, dtype), tuple(shape)


def _itemsize(dtype: str) -> int:
    return np.dtype(dtype).itemsize if dtype in np.sctypeDict else 2 if dtype == "bfloat16" else 0


def _step(
    name: str, arguments: Mapping[str, Any], node: Any, weights: Mapping[str, Any], stated: Mapping[str, int]
) -> Step:
    """A kernel in blocked layout ("y_nchwc" writes y) pads its channels: its products are those of the file."""
    op = arguments["op_name"]
    inputs = [_typed(entry) for entry in arguments["input_type_shape"]]
    outputs = [_typed(entry) for entry in arguments["output_type_shape"]]
    compute = inputs[0][0] if inputs else "none"
    if op.startswith("QLinear") and outputs:  # the first input of some is a scale
        compute = outputs[0][0]
    macs, place = 0, INTEGER_KERNELS.get(op, FLOAT_KERNELS.get(op))
    attributes = {item.name: item for item in node.attribute} if node is not None else {}
    if place is not None and outputs:
        stored = [weights.get(value, []) for value in node.input] if node is not None else []
        weight = stored[place] if place < len(stored) and stored[place] else list(inputs[place][1])
        data = list(inputs[0][1])
        if "transA" in attributes and attributes["transA"].i and len(data) >= 2:
            data = [*data[:-2], data[-1], data[-2]]
        macs = product_macs(op, data, weight, list(outputs[0][1]))  # N, H, W, C or N, C, H, W: the product is the same
        macs = stated.get(name.removesuffix("_nchwc"), macs) if name.endswith("_nchwc") else macs
        compute = "int8" if op in INTEGER_KERNELS else compute
    reads = tuple(value for value in node.input if value) if node is not None else ()
    writes = tuple(value for value in node.output if value) if node is not None else ()
    if place is not None and not macs:  # the profile leaves packed weights out
        macs = max((stated.get(value, 0) for value in writes), default=0)
    permutation = tuple(attributes["perm"].ints) if op == "Transpose" and "perm" in attributes else ()
    return Step(name, op, compute, macs, reads, writes, permutation)
