"""Have values moved in the encoding that they are stored in afterwards: XNNPACK moves integers within one encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten, insert_call
from edgewright.pipeline.program import Program

QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
# Results that are among the values read, so that rounding before and rounding behind give the same numbers.
MOVES = frozenset(
    {
        aten.cat.default,
        aten.flatten.using_ints,
        aten.max_pool2d.default,
        aten.permute.default,
        aten.reshape.default,
        aten.slice.Tensor,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.view.default,
    }
)


@dataclass(frozen=True)
class MoveInOneEncoding:
    """Given: quantize(move(dequantize(x, a)), b), a and b different encodings.
    Result: quantize(move(dequantize(quantize(dequantize(x, a), b), b)), b), with the same numbers.

    XNNPACK takes a move between dequantize and quantize as one of integers, which keeps them as they are: a delegate
    with two encodings around it does not load (xnn_status_invalid_parameter, ExecuTorch's error 0x1).
    """

    name: ClassVar[str] = "move-in-one-encoding"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in list(program.graph.nodes):
            encoding = _written_in(node)
            if encoding is None:
                continue
            others = [source for source in node.all_input_nodes if source.args[1:] != encoding]
            for source in others:
                stored = insert_call(program, node, QUANTIZE, source, *encoding)
                node.replace_input_with(source, insert_call(program, node, DEQUANTIZE, stored, *encoding))
            rewrites += bool(others)
        return PassReport(rewrites)


def _written_in(node: Node) -> tuple[object, ...] | None:
    """The encoding behind a move, where all that it reads is quantized, too."""
    if node.target not in MOVES or len(node.users) != 1:
        return None
    (user,) = node.users
    if user.target is not QUANTIZE or any(source.target is not DEQUANTIZE for source in node.all_input_nodes):
        return None
    return tuple(user.args[1:])
