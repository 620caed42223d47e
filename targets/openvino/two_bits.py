"""Weights of 2 bits in OpenVINO: unsigned, with a zero point; the ONNX form that files are made of has them in 4."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.targets.openvino.halves import redirect

OPSET = 16  # its constants came with 2026.0, which says that it cannot convert these weights; 2026.4 can


def store_two_bits(model: Any) -> None:
    """Given: Convert(i4) with all in -2..1. Result: Convert(u2) - Convert(2)."""
    from openvino import Tensor, Type, opset13

    def constant(values: np.ndarray[Any, Any], shape: list[int]) -> Any:
        parts = np.zeros((-(-values.size // 4), 4), np.uint8)
        parts.reshape(-1)[: values.size] = values
        packed = np.bitwise_or.reduce(parts << np.array([0, 2, 4, 6], np.uint8), axis=1)
        tensor = Tensor(Type.u2, shape)  # one of its own memory: a view of numpy's would outlive it
        tensor.data.reshape(-1)[:] = packed
        return opset13.convert(opset13.constant(tensor), np.float32)

    for node in model.get_ordered_ops():
        stored = node.input_value(0).get_node() if node.get_type_name() == "Convert" else None
        if stored is None or stored.get_type_name() != "Constant" or stored.get_element_type() != Type.i4:
            continue
        shape = list(stored.get_output_shape(0))
        packed = stored.data.reshape(-1).view(np.uint8)
        values = (np.stack([packed, packed >> 4], 1).reshape(-1)[: int(np.prod(shape))] + 2) & 15
        if values.max(initial=0) < 4:
            zero = constant(np.array([2], np.uint8), [1] * len(shape))
            redirect(node, opset13.subtract(constant(values, shape), zero))


def state_two_bits(path: Path) -> None:
    """State an opset whose constants older releases lack: 2024.1 to 2025.2 would open the file and compute nonsense."""
    text = path.read_text(encoding="utf-8")
    layer = re.compile(r'(type="Const" version=)"opset1"(>\s*<data element_type="u2")')
    path.write_text(layer.sub(rf'\1"opset{OPSET}"\2', text), encoding="utf-8")
