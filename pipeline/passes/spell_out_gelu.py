"""Write the tanh form of GELU as its formula."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten, insert_call, replace
from edgewright.pipeline.program import Program


@dataclass(frozen=True)
class SpellOutGelu:
    """Given: gelu(x, approximate="tanh"). Result: x * (0.5 * (tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)) + 1)).

    coremltools overlooks the argument and writes the exact form (73 dB away), and so does XNNPACK's partitioner; this
    formula coremltools knows, and fuses to Core ML's own operation.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """

    name: ClassVar[str] = "spell-out-gelu"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites = 0
        for node in program.graph.find_nodes(op="call_function", target=aten.gelu.default):
            if node.kwargs.get("approximate") != "tanh":
                continue
            call = partial(insert_call, program, node)
            x = node.args[0]
            cubic = call(aten.mul.Tensor, call(aten.pow.Tensor_Scalar, x, 3), 0.044715)
            inner = call(aten.mul.Tensor, call(aten.add.Tensor, x, cubic), math.sqrt(2.0 / math.pi))
            share = call(aten.mul.Tensor, call(aten.add.Tensor, call(aten.tanh.default, inner), 1.0), 0.5)
            replace(node, call(aten.mul.Tensor, x, share))
            rewrites += 1
        return PassReport(rewrites)
