"""Store weights as float16 or bfloat16."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, TypeGuard

import torch
from torch.fx import Node

from edgewright.errors import RecipeError
from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import add_constant, aten, insert_call
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.program import LOOK_UP, Program

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class ConvertFloats:
    """Given: a float32 constant w. Result: float32(float16(w)), with the float16 form stored; or the bfloat16 form.

    Runtimes compute as they like from there: ONNX Runtime, OpenVINO and LiteRT on CPUs in float32, Core ML in float16.
    bfloat16 has 8 bits of mantissa where float16 has 11, and float32's range: for weights beyond 65504. With float16,
    numbers that stand for infinity in masks (float32's least, in text encoders) become float16's: a softmax over a row
    of true infinities gives NaN.

    Tables of palettes stay as they are, too: formats have them as such.

    What belongs to integers stays float32, too: scales, and the biases that integer runtimes hold as multiples of them.

    Args:
        dtype: "float16" or "bfloat16".
        minimum_elements: smaller constants (biases, scales) stay float32.
        modules: patterns over module paths; constants of other layers stay as they are.
    """

    name: ClassVar[str] = "convert-floats"
    runs_after: ClassVar[tuple[str, ...]] = (
        "fold-batchnorm",
        "fold-constants",
        "smooth-activations",
        "balance-outputs",
    )
    dtype: str = "float16"
    minimum_elements: int = 256
    modules: str = "*"

    def run(self, program: Program, context: Context) -> PassReport:
        dtype = DTYPES.get(self.dtype)
        if dtype is None:
            raise RecipeError("no such dtype", got=repr(self.dtype), expected=" or ".join(DTYPES))
        largest, suffix = torch.finfo(dtype).max, {"float16": "fp16", "bfloat16": "bf16"}[self.dtype]
        patterns = ModulePatterns.of(self.modules, program)
        rewrites, skips = 0, []
        for node, tensor in list(program.constants()):
            if tensor.dtype != torch.float32 or tensor.numel() < self.minimum_elements or _is_palette(node):
                continue
            if _serves_integers(node) or not any(patterns.match(user) for user in node.users):
                continue
            if float(tensor.detach().abs().max()) > largest:
                skips.append(Skip(str(node.target), f"its largest value exceeds {self.dtype}'s {largest:g}"))
                continue
            stored = add_constant(program, f"{node.target}_{suffix}", tensor.to(dtype), node)
            restored = insert_call(program, node, aten.to.dtype, stored, torch.float32)
            node.replace_all_uses_with(restored)
            rewrites += 1
        for node in program.graph.nodes if dtype == torch.float16 else ():
            if any(_is_too_large(value) for value in node.args):
                node.args = tuple(math.copysign(LARGEST, arg) if _is_too_large(arg) else arg for arg in node.args)
                rewrites += 1
        return PassReport(rewrites, tuple(skips))


def _is_palette(node: Node) -> bool:
    return bool(node.users) and all(str(user.target) == LOOK_UP for user in node.users)


def _serves_integers(node: Node) -> bool:
    """Whether a constant is a scale, or the bias of a layer whose weight is restored from integers."""
    return any(
        "quantize" in str(user.target)
        or (node in user.args[2:3] and isinstance(user.args[1], Node) and "dequantize" in str(user.args[1].target))
        for user in node.users
    )


def _is_too_large(value: object) -> TypeGuard[float]:
    return isinstance(value, float) and LARGEST < abs(value) < math.inf
