"""Have rows rounded as XNNPACK rounds them: from their least to their greatest value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import insert_call, replace
from edgewright.pipeline.passes.rounded_rows import CHOOSE
from edgewright.pipeline.program import Program

ASYMMETRIC = torch.ops.quantized_decomposed.choose_qparams_per_token_asymmetric.default


@dataclass(frozen=True)
class UseWholeRange:
    """Given: rows rounded with s = max|x| / 127. Result: with s = (max(x, 0) - min(x, 0)) / 255 and a zero point.

    The only form that XNNPACK's delegate has of scales found at run time. Its steps are no wider, so it errs no more
    than the graph; half as much where all values of a row have one sign.
    """

    name: ClassVar[str] = "use-whole-range"
    runs_after: ClassVar[tuple[str, ...]] = ("quantize-dynamic",)

    def run(self, program: Program, context: Context) -> PassReport:
        found = program.graph.find_nodes(op="call_function", target=CHOOSE)
        for node in found:
            chosen = insert_call(program, node, ASYMMETRIC, *node.args)
            for part in node.users:
                part.meta["val"] = chosen.meta["val"][part.args[1]]
            replace(node, chosen)
        return PassReport(len(found))
