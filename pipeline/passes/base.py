"""What a pass is, what it may know, and what it must say about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from edgewright.calibration.cautions import Caution
from edgewright.calibration.collect import ChannelMaxima
from edgewright.calibration.influence import RowInfluence
from edgewright.pipeline.program import Program
from edgewright.pipeline.training import Training


@dataclass(frozen=True)
class Skip:
    """A node that a pass looked at and left alone, with the reason: a refusal is data, never only a log line."""

    node: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """What a pass chose for a weight or a module, the bytes that it takes, and what each scheme was expected to cost.

    `ms` is what each scheme was predicted to take, where a limit of latency had a say.
    """

    weight: str
    scheme: str
    bytes: int
    costs: Mapping[str, float]
    ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """A latency that was predicted for a device: `low` <= `expected` <= `high`, in ms.

    Args:
        nodes: what each node of the graph has of `expected`, by name; those that cost nothing may be missing.
    """

    device: str
    target: str
    low: float
    expected: float
    high: float
    nodes: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        interval = f"{self.low:.3g} to {self.high:.3g}"
        return f"{self.expected:.3g} ms predicted ({interval}) on {self.device}, {self.target}"


class Latency(Protocol):
    """Predicts how long a program takes on a device."""

    def __call__(self, program: Program, device: str, target: str) -> Prediction: ...


@dataclass(frozen=True)
class PassReport:
    """What a pass did: how many places it rewrote, and which it left alone. 0 rewrites means: graph unchanged.

    `warnings` are what it found odd on the way: the user should look at it. `choices` are its decisions, where it had
    any to make a weight or module; `decided` are sentences on what the data decided for all. `latency` is what was
    predicted of its result, where a limit asks for it. `missed` says which limit of the step could not be met, and by
    how much: the result is the best so far.
    """

    rewrites: int
    skips: tuple[Skip, ...] = ()
    warnings: tuple[Caution, ...] = ()
    choices: tuple[Choice, ...] = ()
    missed: str = ""
    latency: Prediction | None = None
    decided: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """All that passes may use besides the program.

    Args:
        batches: calibration data, each a dict of input name to tensor.
        seed: of everything random.
        statistics: a file that keeps what calibration found; made when missing, reused when it fits.
        declared: by input, the range that its preprocessing gives.
        metric: the user's, of a program; higher is better.
        training: what passes that train work with.
        latency: predicts that of a program, on a device (by its id or file) with a target; empty names stand for those
            of the release's only delivery.
        progress: hears what a long pass is at.
    """

    batches: Sequence[Mapping[str, Tensor]] = field(default_factory=tuple)
    seed: int = 0
    statistics: Path | None = None
    declared: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    metric: Callable[[Program], float] | None = None
    training: Training = field(default_factory=Training)
    progress: Callable[[str], None] = lambda message: None
    latency: Latency | None = None

    @cached_property
    def maxima(self) -> ChannelMaxima:
        """What the data reaches in each channel, kept from pass to pass while the values stay the same."""
        return ChannelMaxima(self.batches)

    @cached_property
    def influence(self) -> RowInfluence:
        """How much the outputs depend on each row of the layers' outputs, kept alike."""
        return RowInfluence(self.batches, self.seed)

    def forget(self) -> None:
        """The program computes other values now."""
        self.maxima.forget()
        self.influence.forget()


@runtime_checkable
class Pass(Protocol):
    """A frozen dataclass whose fields are its settings. It decides first (a plan: pure data), then edits.

    A pass may declare `keeps_values: ClassVar[bool] = True`: the nodes that it leaves in the graph compute what they
    did, but for rounding.
    """

    name: ClassVar[str]
    runs_after: ClassVar[tuple[str, ...]]

    def run(self, program: Program, context: Context) -> PassReport:
        """Edit `program` (a clone that the runner made) and say what was done."""
        ...
