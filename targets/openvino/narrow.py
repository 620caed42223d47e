"""Store the 4-bit weights of integer layers at 4 bits: reading the ONNX form makes a byte of each."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgewright.targets.onnx.blocks import packed_integers


def narrow_weights(model: Any) -> None:
    """Given: Constant(i8) -> Convert(f32). Result: Constant(i4) -> Convert(i8) -> Convert(f32), the same numbers.

    The runtime folds the first conversion when it compiles the model, and then computes in its 8-bit kernels.
    """
    from openvino import Shape, Tensor, Type, opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != Type.i8:
            continue
        integers = node.get_data()
        if integers.size < 2 or integers.min() < -8 or integers.max() > 7:
            continue
        tensor = Tensor(Type.i4, Shape(integers.shape))
        tensor.data[:] = np.frombuffer(packed_integers(integers, 4), np.uint8)
        narrow = opset13.convert(opset13.constant(tensor), "i8", name=node.get_friendly_name())
        narrow.input_value(0).get_node().set_friendly_name(f"{node.get_friendly_name()}.int4")
        for reader in list(node.output(0).get_target_inputs()):
            reader.replace_source_output(narrow.output(0))
