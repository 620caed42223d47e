"""Write means over whole images as the operation that ONNX Runtime has integer kernels for."""

from __future__ import annotations

from typing import Any


def pool_means(model: Any) -> None:
    """Given: ReduceMean(x, axes=[2, 3]) of a value with four axes. Result: GlobalAveragePool(x), squeezed where the
    mean drops its axes.

    ONNX Runtime averages quantized images in integers (QLinearGlobalAveragePool); a quantized ReduceMean it computes in
    float, between a DequantizeLinear and a QuantizeLinear: a tenth of an int8 MobileNetV3.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.value_info)}
    constants = {value.name: value for value in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            nodes.append(node)
            continue
        axes = {int(axis) % 4 for axis in numpy_helper.to_array(constants[node.input[1]])}
        if ranks.get(node.input[0]) != 4 or axes != {2, 3}:
            nodes.append(node)
            continue
        kept = next((bool(item.i) for item in node.attribute if item.name == "keepdims"), True)
        pooled = node.output[0] if kept else f"{node.output[0]}.pooled"
        nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], node.name))
        if not kept:
            if "axes.image" not in constants:
                constants["axes.image"] = numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "axes.image")
                graph.initializer.append(constants["axes.image"])
            nodes.append(helper.make_node("Squeeze", [pooled, "axes.image"], [node.output[0]], f"{node.name}.flat"))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    kept_constants = [value for value in graph.initializer if value.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept_constants)
