"""Drop operations that return their input unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten
from edgewright.pipeline.program import Program, dtype_name

COPIES = frozenset(
    {
        aten.clone.default,
        aten.alias.default,
        aten.alias_copy.default,
        aten.detach.default,
        aten.contiguous.default,
        aten.lift_fresh_copy.default,
    }
)
RESHAPES = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,
        aten.expand.default,
        aten.slice.Tensor,
        aten._to_copy.default,
        aten.to.dtype,
        aten.type_as.default,
        aten.constant_pad_nd.default,
        aten.pad.default,
        aten.flatten.using_ints,
    }
)
CHECKS = frozenset({aten._assert_tensor_metadata.default})


@dataclass(frozen=True)
class DropIdentities:
    """Given: clone(x), or view(x) to the shape that it has, or slice(x) over all of it. Result: x.

    Converters stumble over some of these (`alias` in Core ML), and an annotator should not see through them.
    """

    name: ClassVar[str] = "drop-identities"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in list(program.graph.nodes):
            if node.target in CHECKS:
                program.graph.erase_node(node)
                rewrites += 1
            elif node.op == "call_function" and _is_identity(node):
                node.replace_all_uses_with(node.args[0])
                program.graph.erase_node(node)
                rewrites += 1
        return PassReport(rewrites)


def _is_identity(node: Node) -> bool:
    if node.target is aten.permute.default:
        order: Any = node.args[1]  # coremltools and XNNPACK move the axes of a tensor that has some
        return [axis % len(order) for axis in order] == list(range(len(order)))
    if node.target is aten.flip.default:
        return not node.args[1]
    if node.target is aten.dropout.default:
        return node.args[2] is False  # in training mode it is random, not a copy
    if node.target in COPIES:
        return True
    if node.target not in RESHAPES:
        return False
    before, after = node.args[0].meta.get("val"), node.meta.get("val")  # type: ignore[union-attr]
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return False
    # The same shape and dtype: a slice or pad of the same size reads the same elements only from offset 0.
    same = list(before.shape) == list(after.shape) and dtype_name(before.dtype) == dtype_name(after.dtype)
    if node.target in (aten.constant_pad_nd.default, aten.pad.default):
        return same and not any(node.args[1])  # type: ignore[arg-type]
    if node.target is aten.slice.Tensor:
        return same and (len(node.args) < 5 or bool(node.args[4] == 1))
    return same
