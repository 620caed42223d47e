"""What an ONNX file holds, and what ONNX Runtime makes of it: the profile of a real run, with every kernel's dtypes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.targets.accounting import (
    Step,
    account,
    convolution_macs,
    matmul_macs,
    transposed_convolution_macs,
)
from edgewright.targets.base import Inspection, Operation

# Kernels of ONNX Runtime that multiply in integers, with the place of the weight among their inputs.
INTEGER_KERNELS = {
    "QLinearConv": 3,
    "ConvInteger": 1,
    "QLinearMatMul": 3,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "QGemm": 3,
    "QAttention": 1,
}
FLOAT_KERNELS = {
    "Conv": 1,
    "FusedConv": 1,
    "ConvTranspose": 1,
    "MatMul": 1,
    "Gemm": 1,
    "FusedMatMul": 1,
    "FusedGemm": 1,
}
PROFILE_DTYPES = {"float": "float32", "double": "float64"}
NUMPY_BITS = {"INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}


def inspect_onnx(path: Path) -> Inspection:
    """Read a file of our own or of others; the executed graph is there when ONNX Runtime opens the file."""
    import onnx
    from onnx import helper

    model = onnx.load(str(path))
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = model.graph
    shapes: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        shapes[value.name] = [dimension.dim_value or 1 for dimension in tensor.shape.dim]
        if tensor.elem_type:
            sizes[value.name] = prod(shapes[value.name]) * helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    constants: dict[str, int] = {}
    by_dtype: dict[str, int] = {}
    for initializer in graph.initializer:
        dtype = onnx.TensorProto.DataType.Name(initializer.data_type)
        itemsize = helper.tensor_dtype_to_np_dtype(initializer.data_type).itemsize
        bits = NUMPY_BITS.get(dtype, 8 * itemsize)
        constants[initializer.name] = (prod(initializer.dims) * bits + 7) // 8
        shapes[initializer.name] = list(initializer.dims)
        name = np.dtype(helper.tensor_dtype_to_np_dtype(initializer.data_type)).name
        by_dtype[name] = by_dtype.get(name, 0) + constants[initializer.name]
        sizes.pop(initializer.name, None)
    steps = _steps(graph, shapes)
    opsets = ", ".join(f"{entry.domain or 'opset'} {entry.version}" for entry in model.opset_import)
    title = f"ONNX {opsets}, IR {model.ir_version}"
    return account(title, steps, sizes, constants, by_dtype, _executed(path, _macs_by_result(steps)))


def _steps(graph: Any, shapes: Mapping[str, list[int]]) -> list[Step]:
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def integer(node: Any) -> bool:
        """Q/DQ around a product: the form that runtimes compute in integers."""
        sources = [makers.get(name) for name in node.input[:2]]
        if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
            return False
        users = readers.get(node.output[0], [])
        if len(users) == 1 and users[0].op_type in ("Relu", "Clip", "Add"):
            users = readers.get(users[0].output[0], [])
        return any(user.op_type == "QuantizeLinear" for user in users)

    steps = []
    for place, node in enumerate(graph.node):
        macs, compute = 0, "float32"
        if node.op_type in FLOAT_KERNELS or node.op_type in INTEGER_KERNELS:
            weight_place = FLOAT_KERNELS.get(node.op_type, INTEGER_KERNELS.get(node.op_type, 1))
            weight = shapes.get(node.input[weight_place], [])
            macs = _macs(node.op_type, shapes.get(node.input[0], []), weight, shapes.get(node.output[0], []))
            compute = "int8" if node.op_type in INTEGER_KERNELS or integer(node) else "float32"
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            compute = "int8"
        name = node.name or f"{node.op_type}_{place}"
        steps.append(Step(name, node.op_type, compute, macs, tuple(node.input), tuple(node.output)))
    return steps


def _macs(op: str, data: list[int], weight: list[int], output: list[int]) -> int:
    if not weight or not output:
        return 0
    if op == "ConvTranspose":
        return transposed_convolution_macs(data, weight)
    if "Conv" in op:
        return convolution_macs(output, weight)
    inner = prod(weight) * prod(output[:-1]) // prod(weight[:-2]) if len(weight) >= 2 else prod(output)
    return matmul_macs(data, output) if len(data) >= 2 and "Gemm" not in op else inner


FUSED = {"Relu", "Clip", "Add", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu"}


def _macs_by_result(steps: list[Step]) -> dict[str, int]:
    """The products of the file by the value that they write, or that an activation fused into them writes."""
    found: dict[str, int] = {}
    for step in steps:
        macs = step.macs or max((found.get(name, 0) for name in step.reads if step.op in FUSED), default=0)
        found |= {name: macs for name in step.writes if macs}
    return found


def _executed(path: Path, stated: Mapping[str, int]) -> list[Operation] | None:
    """One profiled run on zeros, joined with the optimized graph by node name: the profile tells each kernel's dtypes
    and activation shapes, the graph the shapes of the weights. None when this ONNX Runtime does not open the file.
    """
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
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
            return None
        feed = {
            port.name: np.zeros([size if isinstance(size, int) else 1 for size in port.shape], DTYPES[port.type])
            for port in session.get_inputs()
        }
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = onnx.load(options.optimized_model_filepath).graph
    weights = {initializer.name: list(initializer.dims) for initializer in graph.initializer}
    constants = {node.name: [weights.get(name, []) for name in node.input] for node in graph.node}
    turned = {node.name for node in graph.node for item in node.attribute if item.name == "transA" and item.i}
    suffix = "_kernel_time"
    kernels = [event for event in events if event.get("name", "").endswith(suffix)]
    names = [event["name"].removesuffix(suffix) for event in kernels]
    return [
        _kernel(name, event["args"], constants, stated, transposed=name in turned)
        for name, event in zip(names, kernels, strict=True)
    ]


def _kernel(
    name: str,
    arguments: Mapping[str, Any],
    constants: Mapping[str, list[list[int]]],
    stated: Mapping[str, int],
    *,
    transposed: bool,
) -> Operation:
    """A kernel in blocked layout ("y_nchwc" writes y) pads its channels: its products are those of the file."""
    op = arguments["op_name"]
    inputs = [next(iter(entry.items())) for entry in arguments["input_type_shape"]]
    compute = PROFILE_DTYPES.get(inputs[0][0], inputs[0][0]) if inputs else "none"
    if op.startswith("QLinear"):  # the first input of some is a scale
        result = next(iter(arguments["output_type_shape"][0]))
        compute = PROFILE_DTYPES.get(result, result)
    macs = 0
    if op in INTEGER_KERNELS or op in FLOAT_KERNELS:
        place = INTEGER_KERNELS.get(op, FLOAT_KERNELS.get(op, 1))
        stored = constants.get(name, [])
        weight = stored[place] if place < len(stored) and stored[place] else inputs[place][1]
        output = next(iter(arguments["output_type_shape"][0].values()))
        data = inputs[0][1]
        if transposed and len(data) >= 2:
            data = [*data[:-2], data[-1], data[-2]]
        macs = _macs(op, data, weight, output)  # N, H, W, C or N, C, H, W: the product is the same
        macs = stated.get(name.removesuffix("_nchwc"), macs) if name.endswith("_nchwc") else macs
        compute = "int8" if op in INTEGER_KERNELS else compute
    return Operation(name, op, compute, macs)
