"""Where an artifact drifts from its graph: the first layers whose values in the runtime leave those of the reference.

Works on every target, since it needs nothing of one but a lowering and a session: the program is lowered once more
with the values of its layers as further outputs, and both are run. A layer that falls clearly below what it reads is
suspicious; the first few of them are then lowered alone and given the reference's own inputs, which tells the layer
that computes other numbers from one that only receives them.

Further outputs can keep a runtime from fusing: `Drift.same_db` compares the last outputs with those of the artifact.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewright.errors import CalibrationError, EdgewrightError
from edgewright.pipeline.drift_probe import Probe, find_probes, layer_alone, probe_name, upstream, with_probes
from edgewright.pipeline.lowering import write_files
from edgewright.pipeline.metrics import IDENTICAL_DB, sqnr_by_output, sqnr_db
from edgewright.pipeline.predictor import run_program
from edgewright.targets.base import Arrays, Target

if TYPE_CHECKING:
    from torch.fx import Node

    from edgewright.pipeline.program import Program

FALL_DB = 6.0  # below the worst of what a layer reads: twice the noise, and no rounding
STEPS = 1.01  # a layer given the reference's input may differ by one quantization step (and float32's last bits)
MOST_LAYERS = 5  # lowered alone
MOST_PROBES = 150
MOST_LOWERINGS = 16  # of programs with probes, when some value cannot be an output
SAMPLES = 4
SAME_DB = 60.0


@dataclass(frozen=True)
class Layer:
    """A layer whose value falls.

    Args:
        node, module, op: the graph's name of it, the user's module, the operation.
        sqnr_db: its value in the runtime against the reference, with all that came before.
        inputs_db: the least SQNR of what it reads (200: exactly the reference's).
        own_db: the same when it is given the reference's inputs; None where it was not lowered alone.
        own_steps: its largest own difference in quantization steps, where its value is quantized.
        faulty: it computes other numbers itself; None where that is not known.
    """

    node: str
    module: str
    op: str
    sqnr_db: float
    inputs_db: float
    own_db: float | None = None
    own_steps: float | None = None
    faulty: bool | None = None


@dataclass(frozen=True)
class Drift:
    """What was found: `layers` are the first that fall, in the graph's order; `curve` is the SQNR of every value
    looked at, in dB, by the layer's name.

    `same_db` is the least SQNR of the last outputs with probes against those of the artifact without; None where
    they were not given.
    """

    layers: tuple[Layer, ...]
    curve: tuple[tuple[str, float], ...] = ()
    same_db: float | None = None
    notes: tuple[str, ...] = ()


def find_drift(
    program: Program,
    target: Target,
    samples: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    folder: Path,
    *,
    found: Sequence[Arrays] | None = None,
    threads: int = 1,
) -> Drift:
    """Compare every layer of a program with what the target's runtime computes of it.

    Args:
        program: the compressed program that the artifact was lowered from.
        samples: inputs; the first four are run.
        folder: for scratch files; it exists.
        found: the artifact's own outputs on the samples.
    Raises:
        CalibrationError: no samples.
    """
    if not samples:
        raise CalibrationError("looking for drift needs at least one sample", got="none")
    probing = _Probing(program, target, [dict(sample) for sample in samples[:SAMPLES]], folder, threads)
    probes = _thinned(find_probes(program), probing.notes)
    probing.look(probes)
    seen = [probe for probe in probes if probe.node in probing.sqnr]
    suspects = _suspects(seen, probing)
    layers = tuple(_judged(place, probe, seen, probing) for place, probe in enumerate(suspects))
    same = None
    if found is not None and probing.outputs:
        ours = [{name: run[name] for name in found[0]} for run in probing.outputs]
        same = min(sqnr_by_output(list(found[: len(ours)]), ours).values(), default=IDENTICAL_DB)
        if same < SAME_DB:
            probing.notes.append(
                f"with the layers' values as outputs the runtime computes other results than without ({same:.1f} dB "
                "between them): it fuses less, so the layers are a hint and no proof"
            )
    curve = tuple((probe.name, round(probing.sqnr[probe.node], 2)) for probe in seen)
    return Drift(layers, curve, same, tuple(probing.notes))


def _thinned(probes: list[Probe], notes: list[str]) -> list[Probe]:
    if len(probes) <= MOST_PROBES:
        return probes
    notes.append(f"{MOST_PROBES} of {len(probes)} values were looked at, evenly spread")
    return [probes[place * len(probes) // MOST_PROBES] for place in range(MOST_PROBES)]


@dataclass
class _Probing:
    """Lowers programs with probes and keeps what the runtime and the reference compute."""

    program: Program
    target: Target
    samples: list[Arrays]
    folder: Path
    threads: int
    notes: list[str] = field(default_factory=list)
    sqnr: dict[Node, float] = field(default_factory=dict)
    steps: dict[Node, float] = field(default_factory=dict)
    references: dict[Node, list[np.ndarray[Any, Any]]] = field(default_factory=dict)
    outputs: list[Arrays] = field(default_factory=list)
    lowerings: int = 0

    def look(self, probes: Sequence[Probe]) -> None:
        """Fill in the SQNR of each probe. Where the target does not take them all, each half is tried."""
        if not probes or self.lowerings >= MOST_LOWERINGS:
            if probes:
                self.notes.append(f"{len(probes)} values could not be made outputs in {MOST_LOWERINGS} lowerings")
            return
        self.lowerings += 1
        probed = with_probes(self.program, probes)
        expected = [run_program(probed)(sample) for sample in self.samples]
        names = [probe_name(self.program, place) for place in range(len(probes))]
        for name, probe in zip(names, probes, strict=True):
            self.references[probe.node] = [run[name] for run in expected]
        try:
            found = self.run(probed, self.samples)
        except EdgewrightError as error:
            if len(probes) == 1:
                self.notes.append(f"{probes[0].node.name} cannot be an output: {str(error).splitlines()[0]}")
                return
            middle = len(probes) // 2
            self.look(probes[:middle])
            self.look(probes[middle:])
            return
        self.outputs = self.outputs or found
        for name, probe in zip(names, probes, strict=True):
            self.sqnr[probe.node], self.steps[probe.node] = _compared(
                [run[name] for run in expected], [run[name] for run in found], probe.scale
            )

    def run(self, program: Program, samples: Sequence[Arrays]) -> list[Arrays]:
        """Lower and run; whatever a runtime raises comes as an EdgewrightError."""
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            artifact = write_files(program, self.target, Path(scratch))
            try:
                with self.target.open(artifact, self.threads) as session:
                    return [session.run(sample) for sample in samples]
            except Exception as error:  # a runtime can raise anything on a program that nobody asked it to take
                raise EdgewrightError(f"the runtime failed: {type(error).__name__}: {error}") from error


def _compared(expected: list[Any], found: list[Any], scale: float) -> tuple[float, float]:
    """SQNR over all samples, and the largest difference in quantization steps (0 where there are none)."""
    reference = np.concatenate([np.asarray(value, np.float64).reshape(-1) for value in expected])
    other = np.concatenate([np.asarray(value, np.float64).reshape(-1) for value in found])
    largest = float(np.max(np.abs(reference - other), initial=0.0))
    return sqnr_db(reference, other), largest / scale if scale else 0.0


def _inputs_db(probe: Probe, seen: Mapping[Node, Probe], probing: _Probing) -> float:
    return min((probing.sqnr[item.node] for item in upstream(probe, seen)), default=IDENTICAL_DB)


def _suspects(seen: Sequence[Probe], probing: _Probing) -> list[Probe]:
    """Those that fall clearly below what they read, first ones first; if none does, those that fall most.

    float32 rounds: above the target's own tolerance nothing is suspicious. A quantized value whose inputs are exact
    may be one step off.
    """
    tolerance = probing.target.capabilities.tolerance_for(probing.program.weight_bytes())
    nodes = {probe.node: probe for probe in seen}
    falls: list[tuple[float, Probe]] = []
    for probe in seen:
        own = probing.sqnr[probe.node]
        before = _inputs_db(probe, nodes, probing)
        rounding = probe.scale and probing.steps[probe.node] <= STEPS
        if own < tolerance and not rounding:
            falls.append((min(before, tolerance) - own, probe))
    clear = [probe for fall, probe in falls if fall > FALL_DB]
    most = sorted(falls, key=lambda entry: -entry[0])[:MOST_LAYERS]
    chosen = clear or [probe for fall, probe in most if fall > 0]
    return chosen[:MOST_LAYERS]


def _judged(place: int, probe: Probe, seen: Sequence[Probe], probing: _Probing) -> Layer:
    """A suspicious layer, lowered alone and given the reference's inputs."""
    nodes = {item.node: item for item in seen}
    before = upstream(probe, nodes)
    own_db = own_steps = faulty = None
    try:
        own_db, steps = _alone(probe, before, probing)
        own_steps = round(steps, 2) if probe.scale else None
        tolerance = probing.target.capabilities.tolerance_for(probing.program.weight_bytes())
        faulty = steps > STEPS if probe.scale else own_db < tolerance
    except EdgewrightError as error:
        probing.notes.append(f"{probe.layer.name} could not be lowered alone: {str(error).splitlines()[0]}")
    return Layer(
        probe.layer.name,
        probe.module,
        probe.op,
        round(probing.sqnr[probe.node], 2),
        round(_inputs_db(probe, nodes, probing), 2),
        None if own_db is None else round(own_db, 2),
        own_steps,
        faulty,
    )


def _alone(probe: Probe, before: Sequence[Probe], probing: _Probing) -> tuple[float, float]:
    import torch

    def tensors(number: int) -> dict[Node, torch.Tensor]:
        values = {item.node: probing.references[item.node][number] for item in before}
        placeholders = probing.program.graph.find_nodes(op="placeholder")
        for node, spec in zip(placeholders, probing.program.inputs, strict=True):
            values[node] = probing.samples[number][spec.name]
        return {node: torch.from_numpy(np.ascontiguousarray(value)) for node, value in values.items()}

    layer, inputs = layer_alone(probing.program, probe, before, tensors(0))
    shapes = {name: tuple(tensors(0)[node].shape) for name, node in inputs.items()}
    samples = [
        {name: given[node].numpy() for name, node in inputs.items()}
        for number in range(len(probing.samples))
        if all(tuple((given := tensors(number))[node].shape) == shapes[name] for name, node in inputs.items())
    ]
    expected = [run_program(layer)(sample)["value"] for sample in samples]
    found = [run["value"] for run in probing.run(layer, samples)]
    return _compared(expected, found, probe.scale)
