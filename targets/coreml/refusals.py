"""Every operation of a program that coremltools cannot convert, at once: its converter stops at the first."""

from __future__ import annotations

from typing import Any

from edgewright.targets.base import Refusal

WAY_OUT = "rewrite the line with operations that Core ML has, or deliver this model to another target"


def unknown_operations(exported: Any) -> tuple[Refusal, ...]:
    """One refusal for each node of an ExportedProgram without a converter, with the user's source line."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
    from coremltools.converters.mil.frontend.torch.utils import sanitize_op_kind

    from edgewright.pipeline.passes.graph import source_line

    found = []
    for node in exported.graph.nodes:
        if node.op != "call_function":
            continue
        kind = node.target.name() if hasattr(node.target, "name") else node.target.__name__
        if sanitize_op_kind(kind) not in _TORCH_OPS_REGISTRY:
            reason = f"coremltools has no converter for {kind}"
            found.append(Refusal("coreml", node.name, kind, reason, WAY_OUT, source_line(node)))
    return tuple(found)
