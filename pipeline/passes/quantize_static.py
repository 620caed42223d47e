"""Static 8-bit quantization of weights and activations through torchao's PT2E flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch.fx import GraphModule, Node

from edgewright.calibration.batches import require_batches
from edgewright.calibration.cautions import Caution, input_cautions
from edgewright.calibration.observers import BEST, PERCENT, check_observer
from edgewright.calibration.statistics import StatisticsFile
from edgewright.errors import RecipeError
from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.correct_biases import correct_biases
from edgewright.pipeline.passes.graph import add_constant, replace
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.program import Program
from edgewright.pipeline.quiet import quiet

if TYPE_CHECKING:
    from edgewright.pipeline.passes.observe_values import PerTensorObserver


@dataclass(frozen=True)
class QuantizeStatic:
    """Given: conv(x, w). Result: dequantize(quantize(conv(dequantize(quantize(x)), dequantize(w_int8)))).

    Weights: symmetric, one scale an output channel, stored as int8; of fewer than 8 bits with the scale of least
    squared error. Activations: affine, one scale a tensor, from calibration. What is quantized and what shares an
    encoding: `annotate_int8.py`.

    Args:
        modules: patterns over module paths ("vision.*", or several: "vision.*|head"); other layers stay as they are.
        observer: how an activation gets its range: "minmax", "moving-average", "percentile", "mse" or "entropy"; "best"
            is "minmax", or "mse" for what convolutions produce where that errs less (`choose_ranges.py`).
        percentile: of the observer of that name, in percent.
        correct_biases: afterwards, give each channel of a layer's output the mean back that rounding took from it.
        weight_bits: of the layers' weights, 2 to 8; embedding tables keep 8.
        per_channel: weights have a scale an output channel; else one each, in 8 bits, as some accelerators want it.
        symmetric: activations have no zero point.
    Raises:
        CalibrationError: no calibration batches, a value with NaN or infinity, or saved statistics that do not fit.
        RecipeError: the pattern matches no module, or there is no such observer or number of bits.
    Source: Jacob 2018, arXiv:1712.05877; Nagel 2021, arXiv:2106.08295.
    """

    name: ClassVar[str] = "quantize-static"
    runs_after: ClassVar[tuple[str, ...]] = (
        "fold-batchnorm",
        "fold-constants",
        "drop-identities",
        "select-parts",
        "decompose-attention",
        "smooth-activations",
        "balance-outputs",
    )
    modules: str = "*"
    observer: str = BEST
    percentile: float = PERCENT
    correct_biases: bool = False
    weight_bits: int = 8
    per_channel: bool = True
    symmetric: bool = False

    def __post_init__(self) -> None:
        check_static(self)

    def run(self, program: Program, context: Context) -> PassReport:
        before = program.clone() if self.correct_biases else None  # PT2E edits the module in place
        report = quantize_activations(program, context, self)
        if before is not None:
            correct_biases(before, program, context)
        return report


class StaticSettings(Protocol):
    """What decides about the encodings, in every pass that quantizes activations."""

    @property
    def modules(self) -> str: ...
    @property
    def observer(self) -> str: ...
    @property
    def percentile(self) -> float: ...
    @property
    def weight_bits(self) -> int: ...
    @property
    def per_channel(self) -> bool: ...
    @property
    def symmetric(self) -> bool: ...


Adjust = Callable[[GraphModule, Sequence["PerTensorObserver"]], tuple[Caution, ...]]


def check_static(settings: StaticSettings) -> None:
    check_observer(settings.observer, settings.percentile)
    if not 2 <= settings.weight_bits <= 8:
        raise RecipeError("weights have no such number of bits", got=settings.weight_bits, expected="2 to 8")
    if settings.weight_bits < 8 and not settings.per_channel:
        raise RecipeError(
            "weights of few bits need a scale a channel", got="per_channel = false", expected="true, or 8 bits"
        )


def quantize_activations(
    program: Program, context: Context, settings: StaticSettings, adjust: Adjust | None = None
) -> PassReport:
    """Calibrate and convert: what all static quantization shares.

    Args:
        adjust: gets the prepared graph with its calibrated observers, and may change weights and observers.
    """
    require_batches(context.batches, "static quantization")
    patterns = ModulePatterns.of(settings.modules, program)
    saved = None
    if context.statistics is not None:
        saved = StatisticsFile.of(context.statistics, program.digest(), context.batches)
    _separate_shared_weights(program)
    names = _weight_names(program)
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        from edgewright.pipeline.passes.annotate_int8 import Int8Annotator, ObserverSettings
        from edgewright.pipeline.passes.choose_ranges import choose_ranges
        from edgewright.pipeline.passes.observe_values import calibrate

        observer = ObserverSettings(settings.observer, settings.percentile, keep_all=saved is not None)
        annotator = Int8Annotator(
            wanted=patterns.match,
            observer=observer,
            weight_bits=settings.weight_bits,
            per_channel=settings.per_channel,
            symmetric=settings.symmetric,
        )
        prepared = prepare_pt2e(program.module, annotator)
        batches = [[batch[spec.name] for spec in program.inputs] for batch in context.batches]
        observers = calibrate(prepared, batches, saved)
        decided = choose_ranges(prepared, observers, batches)
        cautions = [caution for observer in observers for caution in observer.cautions()]
    if adjust:  # in the open: it takes its time and may call the user's code
        cautions += adjust(prepared, observers)
    with quiet():
        program.module = convert_pt2e(prepared, fold_quantize=True)
    _name_weights(program, names)
    skips = tuple(Skip(*skip) for skip in annotator.skipped)
    cautions = [*input_cautions(context.batches, context.declared), *cautions]
    return PassReport(annotator.annotated, skips, tuple(cautions), decided=decided)


def _separate_shared_weights(program: Program) -> None:
    """Give every user of a constant a get_attr node of its own: PT2E observes constants by node."""
    for node in program.graph.find_nodes(op="get_attr"):
        for user in list(node.users)[1:]:
            with program.graph.inserting_before(user):
                copy = program.graph.get_attr(str(node.target))
            copy.meta = dict(node.meta)
            user.replace_input_with(node, copy)


def _weight_names(program: Program) -> dict[tuple[str, int], str]:
    """(layer's node, argument) -> the name of the constant there. Nodes of layers keep their names through PT2E."""
    return {
        (node.name, place): str(arg.target)
        for node in program.graph.nodes
        if node.op == "call_function"
        for place, arg in enumerate(node.args)
        if isinstance(arg, Node) and arg.op == "get_attr"
    }


def _name_weights(program: Program, names: dict[tuple[str, int], str]) -> None:
    """Name the frozen integers and scales after the weights that they came from; what is equal is stored once."""
    stored: dict[str, Node] = {}
    for node in list(program.graph.nodes):
        for place, arg in enumerate(node.args):
            if (node.name, place) not in names or not isinstance(arg, Node) or "dequantize" not in arg.name:
                continue
            name = names[node.name, place]
            for part, suffix in zip(arg.args[:3], ("", "_scale", "_zero_point"), strict=True):
                if isinstance(part, Node) and part.op == "get_attr":
                    tensor, first = program.tensor(part), stored.get(name + suffix)
                    if first is not None and torch.equal(program.tensor(first), tensor):
                        with program.graph.inserting_before(part):
                            again = program.graph.get_attr(str(first.target))
                        again.meta = dict(first.meta)
                    else:
                        again = stored[name + suffix] = add_constant(program, name + suffix, tensor, part)
                    replace(part, again)
