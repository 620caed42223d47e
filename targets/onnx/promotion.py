"""torch.onnx's explicit type promotion, for the operations alone that promote something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def promoting_where_needed() -> Iterator[None]:
    """Within it, an operation on float32 alone keeps the shape that it has, and is not run for it."""
    import torch
    from torch.onnx._internal.fx.passes import type_promotion

    interpreter: Any = type_promotion._TypePromotionInterpreter
    whole = interpreter.run_node

    def run_node(self: Any, node: torch.fx.Node) -> Any:
        if node.op != "call_function" or "val" not in node.meta:
            return whole(self, node)
        sources = [source.meta.get("val") for source in node.all_input_nodes]
        value = node.meta["val"]
        plain = all(isinstance(one, torch.Tensor) and one.dtype == torch.float32 for one in sources)
        if plain and isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.bool):
            return value
        return whole(self, node)

    interpreter.run_node = run_node
    try:
        yield
    finally:
        interpreter.run_node = whole
