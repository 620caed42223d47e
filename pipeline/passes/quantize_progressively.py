"""Quantize the modules that bear it, the least sensitive first, as far as a limit of quality allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar

from edgewright.errors import RecipeError
from edgewright.pipeline.breakdown import break_down
from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.quality_limit import QualityLimit, farthest
from edgewright.pipeline.passes.runner import Compressed, run_passes
from edgewright.pipeline.program import Program

MOST_MODULES = 24
SAMPLES = 2  # that the modules' shares of the error are seen on


@dataclass(frozen=True)
class QuantizeProgressively:
    """Given: a float program. Result: as many of its modules in `scheme` as keep the limit; the others stay in float.

    All modules are quantized once, and each one's share of the error found. Then sets of modules are tried, always
    those with the least error for the bytes that they save, and the largest set within the limit stays: of n modules,
    about log2(n) sets are tried.

    Args:
        scheme: of the modules, such as "w8a8".
        modules: patterns over module paths; the others are left alone.
        max_drop: of the user's metric. least_db: SQNR of the outputs over the calibration data. One has to be given.
        rounding: of weight-only schemes.
    """

    name: ClassVar[str] = "quantize-progressively"
    runs_after: ClassVar[tuple[str, ...]] = ("fold-batchnorm", "fold-constants", "drop-identities", "linear-products")
    scheme: str = "w8a8"
    modules: str = "*"
    max_drop: float = inf
    least_db: float = -inf
    rounding: str = "nearest"

    def run(self, program: Program, context: Context) -> PassReport:
        limit = QualityLimit(program, context, self.max_drop, self.least_db)
        if not limit.is_set:
            raise RecipeError(
                "progressive quantization goes up to a limit",
                got="none",
                expected="max_drop (of the metric) or least_db (of the outputs)",
            )
        everything = self._quantized(program, context, self.modules)
        batches = context.batches[:SAMPLES]
        shares = break_down(program, everything.program, everything.floats, batches, MOST_MODULES)
        quantized = [share for share in shares if set(share.schemes) != {"fp32"}]
        order = sorted(quantized, key=lambda share: share.error_share / max(share.float32_bytes - share.bytes, 1))
        names = [share.module for share in order]
        tried: dict[int, Compressed] = {len(order) - 1: everything}

        def miss(step: int) -> str:
            if step not in tried:
                tried[step] = self._quantized(program, context, self._patterns(names[step + 1 :]))
            return limit.miss(tried[step].program)

        reached, reason = farthest(len(order), miss)
        left = order[reached + 1 :]
        skips = tuple(
            Skip(share.module, f"it has {share.error_share:.0%} of the error: with it, {reason}") for share in left
        )
        if reached < 0:
            return PassReport(0, skips, missed=f"no module can be quantized: with the least sensitive alone, {reason}")
        program.module = tried[reached].program.module
        return PassReport(reached + 1, skips)

    def _patterns(self, left: Sequence[str]) -> str:
        return "|".join((self.modules, *(f"!{module}.*" for module in left)))

    def _quantized(self, program: Program, context: Context, modules: str) -> Compressed:
        from edgewright.pipeline.recipe import build_passes

        settings = {"rounding": self.rounding} if self.rounding != "nearest" else {}
        passes = build_passes([{"pass": "quantize", "scheme": self.scheme, "modules": modules, **settings}])
        context.forget()
        return run_passes(program, passes, context)
