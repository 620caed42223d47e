"""What is exported: the whole model or one of its parts, with its program, its data and its references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgewright.calibration.batches import Sample, to_tensors
from edgewright.calibration.sizes import spread_sizes
from edgewright.errors import CaptureError, ReleaseError, did_you_mean
from edgewright.pipeline.arrays import save_samples_file
from edgewright.pipeline.breakdown import ModuleShare, break_down
from edgewright.pipeline.capture import capture
from edgewright.pipeline.handover import save_program
from edgewright.pipeline.metric import Metric, Swap, bind_inputs, metric_value
from edgewright.pipeline.passes.base import Context, Latency, Pass
from edgewright.pipeline.passes.runner import Ran, run_passes
from edgewright.pipeline.predictor import Recall, run_module, run_program
from edgewright.pipeline.program import Program
from edgewright.pipeline.shapes import OpenShapes, Sizes
from edgewright.pipeline.training import Training
from edgewright.pipeline.validate import compare
from edgewright.targets.base import Arrays

FAITHFUL_DB = 90.0
ERROR_SAMPLES = 2  # that the modules' shares of the error are seen on: each costs a run a module


@dataclass
class Subject:
    """A program on its way: captured, compressed, and run as reference."""

    part: str | None
    original: Program
    calibration: list[Sample]
    validation: list[Sample]
    swap: Swap | None = None
    training: list[Sample] = field(default_factory=list)
    compressed: Program | None = None
    reports: tuple[Ran, ...] = ()
    floats: Mapping[str, Tensor] = field(default_factory=dict)
    modules: tuple[ModuleShare, ...] = ()
    original_outputs: list[Arrays] = field(default_factory=list)
    compressed_outputs: list[Arrays] = field(default_factory=list)
    metric_original: float | None = None
    metric_compressed: float | None = None
    metric_reads_outputs: bool = False
    file: Path | None = None
    samples_file: Path | None = None
    cut: tuple[Sizes, ...] = ()

    @property
    def program(self) -> Program:
        assert self.compressed is not None, "compress() comes first"
        return self.compressed

    def compress(
        self,
        passes: Sequence[Pass],
        seed: int,
        progress: Callable[[str], None],
        statistics: Path | None = None,
        declared: Mapping[str, tuple[float, float]] | None = None,
        metric: Metric | None = None,
        training: Training | None = None,
        latency: Latency | None = None,
    ) -> None:
        """Run the passes. A part has files of its own; `declared` ranges are of the whole model."""
        ranges = {} if self.part else declared or {}
        given = training or Training()
        own = Training(to_tensors(self.training), given.loss, self._own(given.checkpoint))
        context = Context(
            to_tensors(self.calibration),
            seed,
            self._own(statistics),
            ranges,
            None if metric is None else partial(self._metric_of, metric),
            own,
            progress,
            latency,
        )
        result = run_passes(self.original, passes, context, progress)
        self.compressed, self.reports, self.floats = result.program, result.reports, result.floats

    def _metric_of(self, metric: Metric, program: Program) -> float:
        return metric_value(metric, run_program(program), self.swap)

    def _own(self, file: Path | None) -> Path | None:
        return file.with_stem(f"{file.stem}-{self.part}") if file and self.part else file

    def save(self, folder: Path) -> None:
        """Put the program and the validation inputs where worker processes find them."""
        name = f"part-{self.part}" if self.part else "model"
        self.file, self.samples_file = folder / f".{name}.pt2", folder / f".{name}.npz"
        save_program(self.program, self.file)
        save_samples_file(self.samples_file, self.validation)

    def run_references(self, metric: Metric | None) -> None:
        """Outputs of the original and of the compressed graph, and the metric of both."""
        run = run_program(self.original)
        self.judge_original(metric, [run(sample) for sample in self.validation])
        self.run_compressed(metric)

    def judge_original(self, metric: Metric | None, outputs: list[Arrays]) -> None:
        """Keep its outputs for the validation samples; take its metric, and see whether that asks for nothing else."""
        self.original_outputs = outputs
        if metric is not None:
            known = Recall(run_program(self.original), self.validation, self.original_outputs)
            self.metric_original = metric_value(metric, known, self.swap)
            self.metric_reads_outputs = self.swap is None and not known.missed

    def run_compressed(self, metric: Metric | None) -> None:
        """Outputs of the compressed graph, and its metric."""
        run = run_program(self.program)
        self.compressed_outputs = [run(sample) for sample in self.validation]
        if metric is not None:
            known = Recall(run, self.validation, self.compressed_outputs)
            self.metric_compressed = metric_value(metric, known, self.swap)

    def break_down(self) -> None:
        """What each module got, and its share of the error."""
        samples = to_tensors(self.validation[:ERROR_SAMPLES])
        self.modules = break_down(self.original, self.program, self.floats, samples)


def whole_model(
    model: nn.Module, calibration: list[Sample], validation: list[Sample], shapes: OpenShapes | None = None
) -> Subject:
    """Capture a model on its first sample and show that the graph computes what the model does.

    Args:
        shapes: the inputs with what is open in them; validation then gets samples of every size that is checked.
    Raises:
        CaptureError: it cannot be captured, or the graph gives other numbers than the model.
        CalibrationError: the data has too few samples of a size.
    """
    first = to_tensors(calibration[:1])[0]
    if shapes is None or not shapes.dims:
        program = capture(model, first)
        check_faithful(model, program, validation[:2])
        return Subject(None, program, calibration, validation)
    program = capture(model, first, shapes.axes())
    sized = spread_sizes(validation, shapes, "validation.data")
    check_faithful(model, program, sized.samples[:3])
    return Subject(None, program, calibration, sized.samples, cut=sized.cut)


def saved_program(file: Path, trust_input: str | None, calibration: list[Sample], validation: list[Sample]) -> Subject:
    """A .pt2 file that the user trusts; its data has to fit the inputs that it was exported with.

    Raises:
        CaptureError: it is not trusted, or cannot be loaded.
        ReleaseError: the release declares other inputs than the file has.
    """
    program = capture(file, trust_input=trust_input)
    has = {spec.name: (spec.shape, spec.dtype) for spec in program.inputs}
    sample = calibration[0]
    given = {name: (array.shape, str(array.dtype)) for name, array in sample.items()}
    if has != given:
        raise ReleaseError("the .pt2 file has other inputs than the release declares", got=given, expected=has)
    return Subject(None, program, calibration, validation)


def part_of(
    model: nn.Module,
    name: str,
    path: str,
    swap: Swap,
    calibration: list[Sample],
    validation: list[Sample],
    training: list[Sample],
) -> Subject:
    """Capture a submodule; its data is what it receives while the whole model runs.

    Raises:
        ReleaseError: no such submodule, or the model never calls it.
    """
    paths = [known for known, _ in model.named_modules() if known]
    if path not in paths:
        raise ReleaseError(
            "the model has no such submodule",
            got=path,
            expected=did_you_mean(path, paths),
            where=f"part {name!r}",
        )
    received = [_received(model, path, samples) for samples in (calibration, validation, training)]
    if not all(received[:2]):
        raise ReleaseError("the model never calls this submodule on its data", got=path, where=f"part {name!r}")
    module = model.get_submodule(path)
    program = capture(module, to_tensors(received[0][:1])[0])
    check_faithful(module, program, received[1][:2])
    return Subject(name, program, received[0], received[1], swap, received[2])


def check_faithful(model: nn.Module, program: Program, samples: Sequence[Sample]) -> None:
    """Raise CaptureError when the captured graph and the model differ on real inputs."""
    graph, module = run_program(program), run_module(model)
    same = compare([module(sample) for sample in samples], [graph(sample) for sample in samples])
    if same.sqnr_db < FAITHFUL_DB:
        raise CaptureError(
            "the captured graph does not compute what the model does",
            got={name: f"{value:.1f} dB" for name, value in same.outputs.items()},
            expected=f"at least {FAITHFUL_DB:.0f} dB",
            do="look for branches on Python values that change between calls, or for randomness in forward()",
        )


def _received(model: nn.Module, path: str, samples: Sequence[Sample]) -> list[Sample]:
    found: list[Sample] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append({name: value.detach().numpy().copy() for name, value in bind_inputs(module, args, kwargs).items()})

    hook = model.get_submodule(path).register_forward_pre_hook(record, with_kwargs=True)
    try:
        with torch.no_grad():
            for tensors in to_tensors(samples):
                model(**tensors)
    finally:
        hook.remove()
    return found
