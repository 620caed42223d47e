"""State 4-bit weights of integer layers in the form that 4-bit weights of float layers have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import add_constant, insert_call, replace
from edgewright.pipeline.passes.stored_integers import narrow_layers, stored_weight
from edgewright.pipeline.program import Program


@dataclass(frozen=True)
class BlockWeights:
    """Given: conv(dequantize(x), dequantize_per_channel(q, s)), q of 4 bits or less.
    Result: conv(dequantize(x), dequantize_affine(q, s)), a block an output channel.

    coremltools makes an 8-bit constant of the first, whatever its integers are, and a 4-bit one of the second.
    """

    name: ClassVar[str] = "block-weights"
    runs_after: ClassVar[tuple[str, ...]] = ("quantize-static", "train-quantized")

    def run(self, program: Program, context: Context) -> PassReport:
        import torchao.quantization.quant_primitives  # noqa: F401  (registers the operation)

        dequantize = torch.ops.torchao.dequantize_affine.default
        found = [stored for node in narrow_layers(program) if (stored := stored_weight(program, node)) is not None]
        for stored in found:
            scales = add_constant(program, f"{stored.name}_block_scale", stored.scales, stored.node)
            source = stored.node.args[0]
            new = insert_call(
                program, stored.node, dequantize, source, list(stored.block), scales, None, torch.int8, -8, 7
            )
            replace(stored.node, new)
        return PassReport(len(found))
