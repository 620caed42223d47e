"""Quantize no more than limits of latency and bytes ask for: the modules whose errors sum to the least."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf

from edgewright.pipeline.breakdown import ModuleShare, owner_of
from edgewright.pipeline.passes.base import Choice, Prediction
from edgewright.pipeline.passes.module_times import ModuleTimes, fastest, find_times, least_error
from edgewright.pipeline.passes.runner import Compressed
from edgewright.pipeline.program import Program

TRIES = 6  # sets of modules that are quantized and predicted whole: the times of modules are an estimate
SLOWEST = 3  # that a missed limit names


@dataclass(frozen=True)
class Trial:
    """A set of modules, by their places, really quantized; `error` is the sum of their shares."""

    chosen: frozenset[int]
    result: Compressed
    error: float
    bytes: int
    latency: Prediction | None

    @property
    def ms(self) -> float:
        return self.latency.expected if self.latency else 0.0


@dataclass(frozen=True)
class Search:
    """What is sought, and by what.

    Args:
        shares: of the modules that can be quantized; everything: with all of them quantized.
        quantize: the program with the modules at these places quantized.
        latency: of a program; None without a limit.
        latency_ms: the limit; inf: none. most_bytes: of all constants; inf: none.
    """

    program: Program
    everything: Compressed
    shares: Sequence[ModuleShare]
    quantize: Callable[[Collection[int]], Compressed]
    latency: Callable[[Program], Prediction] | None
    latency_ms: float = inf
    most_bytes: float = inf
    trials: list[Trial] = field(default_factory=list)

    def run(self) -> Trial:
        """The trial with the least error that keeps both limits; where none does, the one that comes nearest."""
        every = frozenset(range(len(self.shares)))
        self._try(frozenset(), Compressed(self.program))
        whole = self._try(every, self.everything)
        offset = 0.0
        while self.shares and not self._keeps(self.trials[0]) and len(self.trials) < TRIES + 2:
            chosen = self._chosen(offset)
            if chosen is None:  # by the estimate; it may be too high, as it is for all modules
                chosen = self._chosen(whole.ms - self.times.of(every)) or fastest(self.times)
            if any(trial.chosen == chosen for trial in self.trials):
                break
            offset = self._try(chosen, self.quantize(chosen)).ms - self.times.of(chosen)
        return min(self.trials, key=lambda trial: (*self._gaps(trial), trial.error, trial.ms))

    def choices(self, picked: Trial, scheme: str) -> tuple[Choice, ...]:
        """By module: what it got, its bytes, and its share of the error and milliseconds in float and in `scheme`."""
        taken = {"fp32": self._module_ms(self.trials[0]), scheme: self._module_ms(self.trials[1])}
        return tuple(
            Choice(
                share.module,
                scheme if place in picked.chosen else "fp32",
                share.bytes if place in picked.chosen else share.float32_bytes,
                {"fp32": 0.0, scheme: share.error_share},
                {name: by_module.get(share.module, 0.0) for name, by_module in taken.items() if self.latency},
            )
            for place, share in enumerate(self.shares)
        )

    def missed(self, picked: Trial) -> str:
        """What a trial misses, by how much, and what blocks it; empty where it keeps both limits."""
        late, large = self._gaps(picked)
        found = []
        if late:
            slowest = sorted(self._module_ms(picked).items(), key=lambda item: -item[1])[:SLOWEST]
            named = ", ".join(f"{module} {ms:.3g} ms" for module, ms in slowest)
            found.append(
                f"{picked.latency}, limit {self.latency_ms:g} ms: {late:.3g} ms too much with {len(picked.chosen)} of "
                f"{len(self.shares)} modules quantized, the fastest choice; most of it: {named}"
            )
        if large:
            found.append(f"{picked.bytes} bytes, limit {self.most_bytes:.0f}: {large:.0f} too many")
        return "; ".join(found)

    def _chosen(self, offset: float) -> frozenset[int] | None:
        """By the estimate, of which `offset` ms are missing."""
        return least_error(
            [share.error_share for share in self.shares],
            self.times,
            self.latency_ms - offset,
            [share.float32_bytes - share.bytes for share in self.shares],
            self.trials[0].bytes - self.most_bytes,
        )

    @cached_property
    def times(self) -> ModuleTimes:
        if self.latency is None:
            return ModuleTimes(len(self.shares))
        predict = self.latency
        modules = [share.module for share in self.shares]
        return find_times(
            self.everything.program, self.everything.floats, modules, lambda program: predict(program).expected
        )

    def _try(self, chosen: frozenset[int], result: Compressed) -> Trial:
        trial = Trial(
            chosen,
            result,
            sum(self.shares[place].error_share for place in chosen),
            sum(result.program.weight_bytes().values()),
            self.latency(result.program) if self.latency else None,
        )
        self.trials.append(trial)
        return trial

    def _gaps(self, trial: Trial) -> tuple[float, float]:
        return max(0.0, trial.ms - self.latency_ms), max(0.0, trial.bytes - self.most_bytes)

    def _keeps(self, trial: Trial) -> bool:
        return not any(self._gaps(trial))

    def _module_ms(self, trial: Trial) -> dict[str, float]:
        modules, found = [share.module for share in self.shares], dict[str, float]()
        nodes = trial.latency.nodes if trial.latency else {}
        for node in trial.result.program.graph.nodes:
            owner = owner_of(node, modules) if node.name in nodes else None
            if owner is not None:
                found[owner] = found.get(owner, 0.0) + nodes[node.name]
        return found
