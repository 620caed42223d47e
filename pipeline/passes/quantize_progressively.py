"""Quantize the modules that bear it: as far as a limit of quality allows, or as few as other limits ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import ClassVar

from edgewright.errors import RecipeError
from edgewright.pipeline.breakdown import ModuleShare, break_down
from edgewright.pipeline.encoding import Scheme
from edgewright.pipeline.passes.base import Context, PassReport, Prediction, Skip
from edgewright.pipeline.passes.quality_limit import QualityLimit, farthest
from edgewright.pipeline.passes.reach_limits import Search
from edgewright.pipeline.passes.runner import Compressed, run_passes
from edgewright.pipeline.program import Program

MOST_MODULES = 24
SAMPLES = 2  # that the modules' shares of the error are seen on


@dataclass(frozen=True)
class QuantizeProgressively:
    """Given: a float program. Result: some of its modules in `scheme`; the others stay in float.

    All modules are quantized once, and each one's share of the error found. With a limit of quality alone, sets of
    modules are tried, always those with the least error for the bytes that they save, and the largest set within the
    limit stays: of n modules, about log2(n) sets are tried. With a limit of latency or bytes, the set with the least
    sum of errors within it stays: an integer program over what modules, and neighbours together, gain on the device.
    What it gives is quantized and predicted whole, and it is solved again with what the estimate missed. A limit of
    quality is then one that the result has to keep.

    Args:
        scheme: of the modules, such as "w8a8".
        modules: patterns over module paths; the others are left alone.
        max_drop: of the user's metric. least_db: SQNR of the outputs over the calibration data.
        latency_ms: predicted, of one inference on `device` with `target`; these may be left out where the release has
            one such delivery. Only integer arithmetic is faster: it needs a scheme such as "w8a8".
        share: of the constants' bytes in float32, at most.
        rounding, signed_scales: of weight-only schemes. convolutions: of "w8a8-dynamic".
    """

    name: ClassVar[str] = "quantize-progressively"
    runs_after: ClassVar[tuple[str, ...]] = ("fold-batchnorm", "fold-constants", "drop-identities", "linear-products")
    scheme: str = "w8a8"
    modules: str = "*"
    max_drop: float = inf
    least_db: float = -inf
    latency_ms: float = inf
    device: str = ""
    target: str = ""
    share: float = inf
    rounding: str = "nearest"
    signed_scales: bool = False
    convolutions: bool = False

    def __post_init__(self) -> None:
        if not self.latency_ms > 0 or not self.share > 0:
            raise RecipeError(
                "a limit has to be above 0", got=f"latency_ms = {self.latency_ms:g}, share = {self.share:g}"
            )
        if self.latency_ms == inf and (self.device or self.target):
            raise RecipeError(
                "a device without a limit of latency says nothing",
                got=f"device = {self.device!r}, target = {self.target!r}",
                do="set latency_ms, or leave them out",
            )
        scheme = Scheme.parse(self.scheme)
        if self.latency_ms < inf and (scheme.activation_bits != 8 or scheme.dynamic):
            raise RecipeError(
                "no module is predicted to be faster in this scheme: its arithmetic is the float's",
                got=repr(self.scheme),
                expected='"w8a8" or "w4a8" with latency_ms',
            )

    def run(self, program: Program, context: Context) -> PassReport:
        limit = QualityLimit(program, context, self.max_drop, self.least_db)
        if self.latency_ms < inf or self.share < inf:
            return self._reach(program, context, limit)
        if not limit.is_set:
            raise RecipeError(
                "progressive quantization goes up to a limit",
                got="none",
                expected="max_drop (of the metric), least_db (of the outputs), latency_ms (on a device) or share (of "
                "the bytes)",
            )
        everything, quantized = self._everything(program, context)
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

    def _reach(self, program: Program, context: Context, quality: QualityLimit) -> PassReport:
        """The least sensitive modules, and no more than the limits of latency and bytes ask for."""
        everything, shares = self._everything(program, context)
        modules = [share.module for share in shares]
        bytes_before = sum(program.weight_bytes().values())
        search = Search(
            program,
            everything,
            shares,
            lambda kept: self._quantized(
                program,
                context,
                self._patterns([module for place, module in enumerate(modules) if place not in kept]),
            ),
            self._predictor(context),
            self.latency_ms,
            self.share * bytes_before,
        )
        picked = search.run()
        choices, missed = search.choices(picked, self.scheme), search.missed(picked)
        if not picked.chosen:
            return PassReport(0, (), (), choices, missed, picked.latency)
        if not missed and (reason := quality.miss(picked.result.program)):
            missed = f"the least error within the limits of latency and bytes: {reason}"
        program.module = picked.result.program.module
        return PassReport(len(picked.chosen), (), (), choices, missed, picked.latency)

    def _predictor(self, context: Context) -> Callable[[Program], Prediction] | None:
        if self.latency_ms == inf:
            return None
        if context.latency is None:
            raise RecipeError("a limit of latency needs a predictor", got="a context without", do="use compress()")
        return partial(context.latency, device=self.device, target=self.target)

    def _everything(self, program: Program, context: Context) -> tuple[Compressed, list[ModuleShare]]:
        """All modules quantized, and those that this changed with their shares of the error."""
        everything = self._quantized(program, context, self.modules)
        batches = context.batches[:SAMPLES]
        shares = break_down(program, everything.program, everything.floats, batches, MOST_MODULES)
        return everything, [share for share in shares if set(share.schemes) != {"fp32"}]

    def _patterns(self, left: Sequence[str]) -> str:
        return "|".join((self.modules, *(f"!{module}.*" for module in left)))

    def _quantized(self, program: Program, context: Context, modules: str) -> Compressed:
        from edgewright.pipeline.recipe import build_passes

        settings = {"rounding": self.rounding} if self.rounding != "nearest" else {}
        recipe = [{"pass": "quantize", "scheme": self.scheme, "modules": modules, **settings}]
        unasked = {"signed_scales": self.signed_scales, "convolutions": self.convolutions}
        passes = build_passes(recipe, unasked)
        context.forget()
        return run_passes(program, passes, context)
