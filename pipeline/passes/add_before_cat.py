"""Add a constant to the parts of a concatenation instead of to the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import add_constant, aten, insert_call, replace, value_of
from edgewright.pipeline.program import Program


@dataclass(frozen=True)
class AddBeforeCat:
    """Given: add(cat([c, x], d), p), c and p constant. Result: cat([c + p_c, x + p_x], d), c + p_c computed.

    So vision transformers join their class token and their patches and add the positions. A class token is small and
    would share the encoding of the patches (LiteRT's converter sees to that by itself): it would round to almost
    nothing. Behind an addition in float, patches have no encoding to share.
    """

    name: ClassVar[str] = "add-before-cat"
    runs_after: ClassVar[tuple[str, ...]] = ("drop-identities", "fold-constants")

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in list(program.graph.find_nodes(op="call_function", target=aten.add.Tensor)):
            found = _joined_and_constant(node)
            if found is not None:
                _distribute(program, *found)
                replace(node, found[0])
                rewrites += 1
        return PassReport(rewrites)


def _joined_and_constant(node: Node) -> tuple[Node, Node] | None:
    if node.kwargs:
        return None
    for joined, constant in (node.args[:2], node.args[1::-1]):
        if not isinstance(joined, Node) or joined.target is not aten.cat.default or len(joined.users) > 1:
            continue
        if not isinstance(constant, Node) or constant.op != "get_attr":
            continue
        parts: Any = joined.args[0]
        whole, added, axis = value_of(joined), value_of(constant), _axis(joined)
        same = value_of(node).shape == whole.shape and added.dtype == whole.dtype == torch.float32
        full = added.dim() == whole.dim() and added.shape[axis] == whole.shape[axis]
        if same and full and any(part.op == "get_attr" for part in parts) and len(set(parts)) == len(parts):
            return joined, constant
    return None


def _axis(joined: Node) -> int:
    dim: Any = joined.args[1] if len(joined.args) > 1 else 0
    return int(dim % value_of(joined).dim())


def _distribute(program: Program, joined: Node, constant: Node) -> None:
    parts: Any = joined.args[0]
    added, axis = program.tensor(constant).detach(), _axis(joined)
    sums, start = [], 0
    for part in parts:
        size = value_of(part).shape[axis]
        piece, start = added.narrow(axis, start, size), start + size
        if part.op == "get_attr":
            sums.append(add_constant(program, str(part.target), program.tensor(part).detach() + piece, joined))
        else:
            place = add_constant(program, str(constant.target), piece.contiguous(), joined)
            sums.append(insert_call(program, joined, aten.add.Tensor, part, place))
    joined.update_arg(0, sums)
