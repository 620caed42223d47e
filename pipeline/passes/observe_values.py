"""Our observers as PT2E knows them: modules in the prepared graph, fed by calibration or from saved statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase

from edgewright.calibration.cautions import Caution, value_cautions, weight_cautions
from edgewright.calibration.extremes import Averages, Extremes
from edgewright.calibration.histogram import Histogram
from edgewright.calibration.observers import BEST, CANDIDATES, OBSERVERS, PERCENT, make_observer
from edgewright.calibration.ranges import Levels
from edgewright.calibration.side_by_side import SideBySide
from edgewright.calibration.statistics import State, StatisticsFile, ValueStatistics
from edgewright.errors import CalibrationError
from edgewright.pipeline.passes.graph import aten, module_path, value_of
from edgewright.pipeline.rounding.grid import Grid

EPSILON = 2**-20  # the least scale: an all-zero channel and a constant zero have a valid one, too
SECOND = frozenset({aten.conv1d.default, aten.conv2d.default})  # operations whose channels are the second axis
LAST = frozenset({aten.linear.default, aten.layer_norm.default})
# What these make of a value beyond the bounds is what they make of the bounds.
SATURATING: dict[object, tuple[float, float]] = {
    aten.hardswish.default: (-3.0, math.inf),
    aten.hardsigmoid.default: (-3.0, 3.0),
}
UNBOUNDED = (-math.inf, math.inf)
KEEP_CHANNELS = frozenset(
    {
        aten.relu.default,
        aten.relu6.default,
        aten.hardtanh.default,
        aten.hardswish.default,
        aten.silu.default,
        aten.gelu.default,
        aten.add.Tensor,
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
    }
)


class PerTensorObserver(UniformQuantizationObserverBase):  # type: ignore[misc]  # torchao has no types
    """One range for the whole tensor. PT2E makes it with the fields of a QuantizationSpec.

    Where all that reads a value is the same beyond some bounds (a hard swish below -3), the range ends there.

    Args:
        kind: the observer's name, as a recipe gives it.
        percent: of "percentile".
        keep_all: collect what every kind of observer rests on, to be saved.
    Attributes:
        candidates: of "best": what `choose_ranges.py` chooses from, by name.
        rounding: None while values are taken in; later whether they are given out as their encoding has them.
        samples: those that run at once, whose values are taken in in their order.
    """

    def __init__(
        self, kind: str = "minmax", percent: float = PERCENT, keep_all: bool = False, eps: float = EPSILON, **spec: Any
    ) -> None:
        axis = spec.pop("ch_axis", None)
        super().__init__(eps=eps, **spec)
        self.ch_axis = axis
        names = CANDIDATES if kind == BEST else (kind,)
        needed = {OBSERVERS[name].kind for name in names}
        self.found = ValueStatistics((*needed, Averages, Histogram) if keep_all else needed, axis)
        symmetric = self.qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric)
        self.levels = Levels(self.quant_min, self.quant_max, symmetric)
        made = {
            name: make_observer(name, self.levels, axis, self.found.of(OBSERVERS[name].kind), percent) for name in names
        }
        self.observer = made[names[0]]
        self.candidates = made if kind == BEST else {}
        self.nodes: tuple[Node, ...] = ()
        self.bounds = UNBOUNDED
        self.constant = False
        self.rounding: bool | None = None
        self.samples: SideBySide | None = None
        self._encoding: tuple[Tensor, Tensor] | None = None

    def forward(self, values: Tensor) -> Tensor:
        if self.constant or self.rounding is False:
            return values
        if self.rounding:
            scale, zero_point = self.calculate_qparams()
            limits = (self.quant_min, self.quant_max)
            return torch.fake_quantize_per_tensor_affine(values, float(scale), int(zero_point), *limits)
        self._encoding = None
        with self.samples.turn(self) if self.samples else nullcontext():
            if not self.found.update(values if self.bounds == UNBOUNDED else values.clamp(*self.bounds)):
                raise _not_finite(self.nodes)
        return values

    def choose(self, name: str) -> None:
        """Let one of the candidates set the range."""
        self.observer, self._encoding = self.candidates[name], None

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point. PT2E asks at each place where they are used; searching a range takes milliseconds."""
        if self._encoding is None:
            scale, zero_point = self._calculate_qparams(*self.observer.range())
            self._encoding = (scale, zero_point)
        return self._encoding

    @property
    def value(self) -> str:
        """What it observes, by name: the same in every run over the same graph."""
        return "+".join(node.name for node in self.nodes)

    def watch(self, nodes: Sequence[Node], tensors: Sequence[Tensor]) -> None:
        """Say what is observed. Constants (`tensors`) are taken in now; of them alone, nothing changes any more."""
        self.nodes = tuple(nodes)
        found = [SATURATING.get(reader.target, UNBOUNDED) for node in nodes for reader in _readers(node)]
        self.bounds = (min(low for low, _ in found), max(high for _, high in found)) if found else UNBOUNDED
        axes = {channel_axis(node) for node in nodes}
        if self.ch_axis is None and len(axes) == 1 and (axis := axes.pop()) is not None:
            self.found.channels = Extremes(axis)
        if len(tensors) == len(nodes):
            for tensor in tensors:
                self(tensor)
            self.constant = True

    def load(self, state: State) -> None:
        """Know what calibration found at another time."""
        self.found.load(state)
        self._encoding = None

    def cautions(self) -> tuple[Caution, ...]:
        """What is odd about the values, or the channels of a weight."""
        if self.ch_axis is not None:
            return weight_cautions(self.value, self.found.extremes)
        if self.constant:
            return ()
        scale, zero_point = self.calculate_qparams()
        return value_cautions(self.nodes[0].name, self.found, float(scale), int(zero_point), self.levels)


class PerChannelObserver(PerTensorObserver):
    """One range for each index of `ch_axis`, which PT2E hands to classes with "PerChannel" in their name alone."""


class SearchingPerChannelObserver(PerChannelObserver):
    """For the few integers that a weight of less than 8 bits has: a scale of least squared error for each channel."""

    def forward(self, values: Tensor) -> Tensor:
        super().forward(values)
        if not self.constant:
            self._encoding = None
            self.weight = values
        return values

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        if self._encoding is None:
            rows = self.weight.movedim(self.ch_axis, 0).flatten(1)
            grid = Grid((self.quant_max - self.quant_min).bit_length(), search=True, narrow=True)
            scale = grid.scales(rows)[:, 0].clamp_min(EPSILON)
            self._encoding = (scale, torch.zeros(len(scale), dtype=torch.int64))
        return self._encoding


def watch_values(prepared: GraphModule) -> tuple[PerTensorObserver, ...]:
    """Every observer of the prepared graph, told what it observes, in the graph's order; a shared one stands once."""
    found: dict[PerTensorObserver, dict[Node, None]] = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            observer = prepared.get_submodule(str(node.target))
            if isinstance(observer, PerTensorObserver):
                found.setdefault(observer, {})[node.all_input_nodes[0]] = None
    for observer, nodes in found.items():
        observer.watch(list(nodes), [_constant(prepared, node) for node in nodes if node.op == "get_attr"])
    return tuple(found)


def calibrate(
    prepared: GraphModule, batches: Sequence[Sequence[Tensor]], saved: StatisticsFile | None
) -> tuple[PerTensorObserver, ...]:
    """Show the data to every observer, or what a file kept of them. The file is made where it lacks any value.

    Raises:
        CalibrationError: a value has NaN or infinity; or the file does not fit.
    """
    observers = watch_values(prepared)
    computed = [observer for observer in observers if not observer.constant]
    known = saved.read() if saved else {}
    if saved and all(observer.value in known for observer in computed):
        for observer in computed:
            observer.load(known[observer.value])
        return observers
    samples = SideBySide(prepared.get_submodule(node.target) for node in prepared.graph.find_nodes(op="call_module"))
    for observer in computed:
        observer.samples = samples
    try:
        samples.run(lambda batch: prepared(*batch), batches)
    finally:
        for observer in computed:
            observer.samples = None
    if saved:
        saved.write(known | {observer.value: observer.found.state() for observer in computed})
    return observers


def channel_axis(node: Node) -> int | None:
    """The axis of a value's channels, where the layer that it comes from says so."""
    layer = node
    while layer.target in KEEP_CHANNELS and isinstance(layer.args[0], Node):
        layer = layer.args[0]
    if layer.target not in SECOND | LAST:
        return None
    made, shape = value_of(layer).shape, value_of(node).shape
    axis = 1 if layer.target in SECOND else len(made) - 1
    # An addition may have broadcast it; and of sizes that stay open, none is a number of channels.
    return axis if len(made) == len(shape) and isinstance(made[axis], int) and made[axis] == shape[axis] else None


def _readers(node: Node) -> Iterator[Node]:
    """What reads a value, also through observers."""
    for user in node.users:
        if user.op == "call_module":
            yield from _readers(user)
        else:
            yield user


def _constant(prepared: GraphModule, node: Node) -> Tensor:
    value: Any = prepared
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor), "observers stand behind tensors"
    return value.detach()


def _not_finite(nodes: Sequence[Node]) -> CalibrationError:
    node = nodes[0]
    path = module_path(node)
    return CalibrationError(
        f"the value {node.name!r} has NaN or infinity on calibration data",
        got=f"{node.target}" + (f" in {path}" if path else ""),
        expected="finite values",
        do="run the original model on these samples: mend the data or the weights; or name other modules",
    )
