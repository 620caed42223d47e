"""Keep constants of 16 bits through OpenVINO's transformations, which would fold their conversions to float32."""

from __future__ import annotations

from typing import Any

import numpy as np


def hide_halves(model: Any) -> list[tuple[Any, Any]]:
    """Put a parameter where each constant of 16 bits is converted: nothing folds it. For `restore_halves`."""
    from openvino import opset13

    hidden = []
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convert" or node.get_element_type().to_string() != "f32":
            continue
        constant = node.input_value(0).get_node()
        if constant.get_type_name() != "Constant" or constant.get_element_type().to_string() not in ("f16", "bf16"):
            continue
        parameter = opset13.parameter(constant.get_output_shape(0), np.float32)
        redirect(node, parameter)
        hidden.append((parameter, constant))
    model.add_parameters([parameter for parameter, _ in hidden])
    return hidden


def restore_halves(model: Any, hidden: list[tuple[Any, Any]]) -> None:
    from openvino import opset13

    for parameter, constant in hidden:
        redirect(parameter, opset13.convert(constant, np.float32))
        model.remove_parameter(parameter)


def redirect(node: Any, new: Any) -> None:
    """Let what reads a node's first output read another's."""
    for reader in node.output(0).get_target_inputs():
        reader.replace_source_output(new.output(0))


def halve_scales(model: Any) -> None:
    """Given: Convert(i4) * Constant(f32), all of it exact in float16. Result: Convert(i4) * Convert(f16).

    The numbers stay, and the runtime's layers of compressed weights take them so as well.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Multiply":
            continue
        integers, scales = (node.input_value(place).get_node() for place in (0, 1))
        if integers.get_type_name() != "Convert" or integers.input_value(0).get_element_type().to_string() != "i4":
            continue
        if scales.get_type_name() != "Constant" or scales.get_element_type().to_string() != "f32":
            continue
        values = scales.get_data()
        halves = values.astype(np.float16)
        if values.size > 1 and np.array_equal(halves.astype(np.float32), values):
            redirect(scales, opset13.convert(opset13.constant(halves), np.float32))
