"""Quantization-aware training: the weights and scales of a static quantization learn from data."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edgewright.calibration.batches import digest_of
from edgewright.calibration.cautions import Caution
from edgewright.calibration.keyed_file import KeyedFile
from edgewright.calibration.observers import BEST, PERCENT
from edgewright.errors import RecipeError
from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import aten, is_floating
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.passes.quantize_static import QuantizeStatic, check_static, quantize_activations
from edgewright.pipeline.program import Program
from edgewright.pipeline.training.checkpoint import checkpoint_file
from edgewright.pipeline.training.loop import Schedule, Student, train
from edgewright.pipeline.training.losses import Sample, checked, distillation
from edgewright.pipeline.training.place import CPU, find_device, place

if TYPE_CHECKING:
    from edgewright.pipeline.passes.observe_values import PerTensorObserver

# The constants of a layer, by the place among its arguments.
PARAMETERS: dict[object, tuple[int, ...]] = {
    aten.conv1d.default: (1, 2),
    aten.conv2d.default: (1, 2),
    aten.conv_transpose1d.default: (1, 2),
    aten.conv_transpose2d.input: (1, 2),
    aten.linear.default: (1, 2),
    aten.embedding.default: (0,),
    aten.layer_norm.default: (2, 3),
    aten.group_norm.default: (2, 3),
}
ENDS = 0.1  # the first and the last share of the steps, whose losses are compared


@dataclass(frozen=True)
class TrainQuantized:
    """Given: conv(x, w). Result: as of `quantize-static`, with weights and scales that were trained in that form.

    The graph is calibrated as there; then each encoding becomes a rounding that gradients pass (`learned_scales.py`),
    and weights, biases, norms and scales learn together; then it is converted as there. Batch norms are folded into
    their convolutions before (`fold-batchnorm`), so that training sees the very weights that are stored, and the
    statistics of batch norms stay as they are. Zero points and calibrated ranges of what does not train stay, too.

    The teacher is the graph before quantization, unless the training has a loss of its own. The same seed and data
    give the same bytes on the same machine, whether or not the training was stopped in between.

    Args:
        modules, observer, percentile, weight_bits, per_channel, symmetric: as of `quantize-static`.
        trained: patterns over the modules that learn; the others are quantized alone.
        steps: updates of the weights.
        learning_rate: of the first step, relative to the size of what learns over 2^(weight_bits - 1) - 1, so that
            it means the same share of a weight's steps at any number of bits; it falls to 0 by half a cosine.
        batch_size: samples a step.
        device: "cpu", or this machine's accelerator ("cuda").
    Raises:
        CalibrationError: as `quantize-static`.
        TrainingError: no such device, a checkpoint of something else, a loss that is none or does not stay finite.
        RecipeError: a pattern matches no module, or a setting is out of its range.
    Source: Esser 2020, arXiv:1902.08153 (learned scales); Jacob 2018, arXiv:1712.05877, section 3 (training with
        rounding in place).
    """

    name: ClassVar[str] = "train-quantized"
    runs_after: ClassVar[tuple[str, ...]] = QuantizeStatic.runs_after
    modules: str = "*"
    observer: str = BEST
    percentile: float = PERCENT
    weight_bits: int = 8
    per_channel: bool = True
    symmetric: bool = False
    trained: str = "*"
    steps: int = 300
    learning_rate: float = 0.02
    batch_size: int = 16
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_static(self)
        for key in ("steps", "batch_size", "learning_rate"):
            if not 0 < getattr(self, key) < float("inf"):
                raise RecipeError(f"train-quantized: {key} is out of its range", got=getattr(self, key), expected="> 0")

    def run(self, program: Program, context: Context) -> PassReport:
        device = find_device(self.device)
        trained = ModulePatterns.of(self.trained, program)
        file = self._checkpoint(program, context)
        teacher = program.clone()

        def adjust(prepared: GraphModule, observers: Sequence[PerTensorObserver]) -> tuple[Caution, ...]:
            place(prepared, device)
            place(teacher.module, device)
            samples = [{name: tensor.to(device) for name, tensor in sample.items()} for sample in _samples(context)]
            loss = context.training.loss
            student = _student(program, prepared, trained.match, device)
            rate = self.learning_rate / (2 ** (self.weight_bits - 1) - 1)
            schedule = Schedule(self.steps, rate, self.batch_size, context.seed)
            used = checked(loss) if loss else distillation(teacher, samples)
            losses = train(student, samples, used, schedule, file, context.progress)
            place(prepared, CPU)
            return _cautions(losses)

        return quantize_activations(program, context, self, adjust)

    def _checkpoint(self, program: Program, context: Context) -> KeyedFile | None:
        training = context.training
        if training.checkpoint is None:
            return None
        data = digest_of(
            {name: tensor.numpy() for name, tensor in sample.items()} for sample in (*context.batches, *training.data)
        )
        loss = training.loss and f"{training.loss.__module__}:{training.loss.__qualname__}"
        settings = {**dataclasses.asdict(self), "seed": context.seed, "loss": loss}
        text = ", ".join(f"{key}={value}" for key, value in settings.items())
        return checkpoint_file(training.checkpoint, program.digest(), data, text)


def _samples(context: Context) -> Sequence[Sample]:
    return context.training.data or context.batches


def _student(program: Program, prepared: GraphModule, trains: Callable[[Node], bool], device: torch.device) -> Student:
    """The prepared graph with learned scales and with parameters of its own, where a layer trains that reads them."""
    from edgewright.pipeline.passes.learned_scales import learn_scales, rounded_constants

    scales = learn_scales(prepared, trains, device)
    weights: dict[str, nn.Parameter] = {}
    for node in prepared.graph.nodes:
        places = PARAMETERS.get(node.target, ()) if node.op == "call_function" else ()
        for arg in [node.args[at] for at in places if at < len(node.args)]:
            while isinstance(arg, Node) and arg.op == "call_module":
                arg = arg.args[0]
            if isinstance(arg, Node) and arg.op == "get_attr" and is_floating(arg) and trains(node):
                _train_constant(prepared, str(arg.target), weights)
    constants = [(rounding, operator.attrgetter(name)(prepared)) for rounding, name in rounded_constants(prepared)]
    return Student(prepared, program.inputs, program.outputs, weights, scales, constants)


def _train_constant(module: GraphModule, name: str, weights: dict[str, nn.Parameter]) -> None:
    """Make a constant of the graph a parameter of its own, under all names that it has."""
    parent, _, leaf = name.rpartition(".")
    old = getattr(module.get_submodule(parent), leaf)
    if any(old is known for known in weights.values()):
        return
    weights[name] = nn.Parameter(old.detach().clone())
    for owner in module.modules():
        for holder in (owner._parameters, owner._buffers, vars(owner)):
            for key in [key for key, value in holder.items() if value is old]:
                delattr(owner, key)
                owner.register_parameter(key, weights[name])


def _cautions(losses: Sequence[float]) -> tuple[Caution, ...]:
    count = max(1, round(ENDS * len(losses)))
    first, last = sum(losses[:count]) / count, sum(losses[-count:]) / count
    if last < first:
        return ()
    return (Caution("training", f"the loss did not fall: {first:.4g} at first, {last:.4g} at last"),)
