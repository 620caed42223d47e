"""What ExecuTorch does not take, by node: known before the conversion, or from the kernels that its runtime carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgewright.targets.base import Refusal
from edgewright.targets.unsupported import COMPLEX, Unsupported

if TYPE_CHECKING:
    from edgewright.pipeline.program import Program

TABLE = (
    COMPLEX,
    Unsupported(
        lambda node: str(node.target).startswith(("aten.conv3d", "aten.conv_transpose3d")),
        "its kernels convolve one or two axes",
        "deliver this model to another target",
    ),
)


def half_weights(program: Program) -> tuple[Refusal, ...]:
    """XNNPACK's delegate writes float weights as float32 alone: from float16 ones it makes no layer at all."""
    import torch

    reason = "XNNPACK's delegate stores float weights in 32 bits; in 16 they would be computed by portable kernels"
    return tuple(
        Refusal("executorch", str(node.target), "float16 weight", reason, "choose fp32 or w8a8 for this target")
        for node, tensor in program.constants()
        if tensor.dtype == torch.float16
    )


def missing_kernels(exported: Any) -> tuple[Refusal, ...]:
    """One refusal for each operation of an edge program that no delegate took and the runtime has no kernel for."""
    from executorch.exir.dialects.edge._ops import EdgeOpOverload

    from edgewright.pipeline.passes.graph import source_line
    from edgewright.targets.executorch.run import load_bindings

    present = set(load_bindings()._get_operator_names())
    found = []
    for node in exported.graph.nodes:
        if not isinstance(node.target, EdgeOpOverload) or node.target.namespace == "executorch_prim":
            continue
        kind = f"{node.target._schema.name}.{node.target._schema.overload_name or 'default'}"
        if _out_variant(node.target) not in present:
            reason = f"ExecuTorch's runtime has no kernel for {kind}, and XNNPACK's delegate does not take it"
            way_out = "rewrite the line with other operations, or deliver this model to another target"
            found.append(Refusal("executorch", node.name, kind, reason, way_out, source_line(node)))
    return tuple(found)


def _out_variant(operation: Any) -> str | None:
    """The registered name of the form that writes into a given tensor, which is what kernels implement."""
    try:
        schema = operation.to_out_variant()._schema
    except RuntimeError:  # how it says that there is none
        return None
    return f"{schema.name}.{schema.overload_name}"
