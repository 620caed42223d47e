"""Give a choice between a tensor and a number two tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import add_constant, aten, insert_call, replace, value_of
from edgewright.pipeline.program import Program

SCALAR_FORMS = frozenset({aten.where.Scalar, aten.where.ScalarSelf, aten.where.ScalarOther})


@dataclass(frozen=True)
class FillBranches:
    """Given: where(mask, x, 0.0). Result: where(mask, x, zero) with a constant of one element and the result's dtype.

    coremltools has no converter for the forms with numbers, which every masked text encoder has.
    """

    name: ClassVar[str] = "fill-branches"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in list(program.graph.nodes):
            if node.target not in SCALAR_FORMS:
                continue
            dtype = value_of(node).dtype
            branches = []
            for branch in node.args[1:3]:
                if not isinstance(branch, Node):
                    branches.append(
                        add_constant(program, f"{node.name}_branch", torch.tensor(branch, dtype=dtype), node)
                    )
                elif value_of(branch).dtype != dtype:
                    branches.append(insert_call(program, node, aten.to.dtype, branch, dtype))
                else:
                    branches.append(branch)
            replace(node, insert_call(program, node, aten.where.self, node.args[0], *branches))
            rewrites += 1
        return PassReport(rewrites)
