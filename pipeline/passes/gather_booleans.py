"""Pick out of booleans as integers, for runtimes that have no gather of booleans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten, insert_call, replace, value_of
from edgewright.pipeline.program import Program

GATHERS = (aten.index.Tensor, aten.index_select.default, aten.gather.default)


@dataclass(frozen=True)
class GatherBooleans:
    """Given: index(mask, ids) with a boolean mask. Result: bool(index(int32(mask), ids)). So with other gathers.

    TFLite gathers booleans only since the release after 2.14, Core ML never; attention masks of text encoders are
    picked so.
    """

    name: ClassVar[str] = "gather-booleans"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in list(program.graph.nodes):
            if node.target not in GATHERS or value_of(node.args[0]).dtype != torch.bool:
                continue
            source, *rest = node.args
            number = insert_call(program, node, aten.to.dtype, source, torch.int32)
            found = insert_call(program, node, node.target, number, *rest)
            replace(node, insert_call(program, node, aten.to.dtype, found, torch.bool))
            rewrites += 1
        return PassReport(rewrites)
