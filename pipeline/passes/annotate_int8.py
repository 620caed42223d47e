"""Decide which tensors of a graph get 8-bit encodings, and which share one.

The rules, and why:

- Convolutions, linear layers and matrix products are quantized with their inputs and outputs: that is where the
  multiply-accumulates are, and a runtime needs all three encodings to compute in integers.
- A *chain* is what convolutions produce: activations, residual adds, concatenations and pooling stay inside, so a
  convolutional network is quantized whole. Transformers have no chain: their residual streams, norms and softmax stay
  in float, because int8 adds there cost 20 to 30 dB.
- Operations that only move values (reshape, transpose, slice, maximum, padding) share their input's encoding, and a
  concatenation shares one among its inputs and output, so that no runtime has to re-quantize.
- Transposed convolutions stay in float: ONNX Runtime and OpenVINO were seen to compute them so even when quantized.
  (LiteRT's converter makes an integer kernel of one between two encodings, with weight scales of its own choice.)
- What a matrix product multiplies has symmetric encodings, everything else a zero point, softmaxes too. A softmax of
  floats gets its range from the data: spread over 197 tokens, it is 1.3 steps of the usual 1/256, and the product is
  lost. One of integers has 1/256: runtimes compute it whole in integers, and LiteRT refuses any other scale there.
- Integer tensors (indices, masks, positions) are never touched.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)

from edgewright.calibration.observers import BEST, PERCENT
from edgewright.pipeline.passes.graph import TURNS, aten, is_floating, value_of
from edgewright.pipeline.passes.observe_values import (
    PerChannelObserver,
    PerTensorObserver,
    SearchingPerChannelObserver,
)

CONVOLUTIONS = frozenset({aten.conv1d.default, aten.conv2d.default})
TRANSPOSED = frozenset({aten.conv_transpose1d.default, aten.conv_transpose2d.input})
LINEAR = aten.linear.default
PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default, aten.mm.default})
FUSED_ACTIVATIONS = frozenset({aten.relu.default, aten.hardtanh.default, aten.relu6.default})
CHAIN_ACTIVATIONS = frozenset(
    {
        *FUSED_ACTIVATIONS,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.sigmoid.default,
        aten.silu.default,
        aten.leaky_relu.default,
        aten.tanh.default,
        aten.mean.dim,
    }
)
ARITHMETIC = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor})
MOVES = frozenset(
    {
        *TURNS,
        aten.slice.Tensor,
        aten.select.int,
        aten.expand.default,
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.adaptive_avg_pool2d.default,
        aten.constant_pad_nd.default,
        aten.pad.default,
        aten.pixel_shuffle.default,
        aten.upsample_nearest2d.vec,
        aten.upsample_bilinear2d.vec,
    }
)
CONCATENATE = aten.cat.default
EMBEDDING = aten.embedding.default
SOFTMAX = frozenset({aten.softmax.int, aten._softmax.default})


@dataclass(frozen=True)
class ObserverSettings:
    """Which of `calibration/observers.py` sets the ranges of activations.

    Args:
        kind: one by name, or "best": in a chain what `choose_ranges.py` finds to err less, else "minmax".
        percent: of "percentile".
        keep_all: collect what every other kind rests on, too.
    """

    kind: str = "minmax"
    percent: float = PERCENT
    keep_all: bool = False


def _activation(settings: ObserverSettings, *, symmetric: bool, chain: bool) -> QuantizationSpec:
    if settings.kind == BEST and not chain:
        settings = dataclasses.replace(settings, kind="minmax")
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
        is_dynamic=False,
        observer_or_fake_quant_ctr=PerTensorObserver.with_args(**dataclasses.asdict(settings)),
    )


def _weight(axis: int, bits: int, *, per_channel: bool) -> QuantizationSpec:
    if not per_channel:
        return TABLE
    highest = 2 ** (bits - 1) - 1
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-highest,
        quant_max=highest,
        qscheme=torch.per_channel_symmetric,
        ch_axis=axis,
        is_dynamic=False,
        observer_or_fake_quant_ctr=PerChannelObserver if bits == 8 else SearchingPerChannelObserver,
    )


TABLE = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_tensor_symmetric,
    is_dynamic=False,
    observer_or_fake_quant_ctr=PerTensorObserver,
)
# Of a softmax of integers: the encoding that the integer kernels of runtimes have built in.
PROBABILITY = FixedQParamsQuantizationSpec(
    dtype=torch.int8,
    scale=1.0 / 256.0,
    zero_point=-128,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
)


@dataclass
class Int8Annotator(Quantizer):  # type: ignore[misc]  # torchao has no types
    """The annotator that PT2E's prepare step calls.

    Args:
        wanted: which nodes may be quantized; by default all.
        observer: how activations get their range.
        weight_bits: of layers and constant factors; embedding tables have 8.
        per_channel: whether these have a scale an output channel, or one for all (in 8 bits).
        symmetric: no activation has a zero point.
        skipped: filled with (node, reason) for layers that were left in float.
    """

    wanted: Callable[[Node], bool] = lambda node: True
    observer: ObserverSettings = ObserverSettings()
    weight_bits: int = 8
    per_channel: bool = True
    symmetric: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)
    annotated: int = 0

    def __post_init__(self) -> None:
        self._quantized: set[Node] = set()
        self._chain: set[Node] = set()
        self._symmetric: set[Node] = set()
        self._outputs: set[Node] = set()

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: every annotation is made from a rule above."""

    def annotate(self, model: GraphModule) -> GraphModule:
        self._symmetric = _operands(model)
        self._outputs = set(model.graph.output_node().all_input_nodes)
        for node in model.graph.nodes:
            if node.op != "call_function" or not is_floating(node) or _annotation(node) or not self.wanted(node):
                continue
            if node.target in CONVOLUTIONS or node.target is LINEAR:
                self._layer(node)
            elif node.target in TRANSPOSED:
                self.skipped.append(
                    (
                        node.name,
                        "transposed convolutions stay in float: ONNX Runtime and OpenVINO were seen to compute them so",
                    )
                )
            elif node.target in PRODUCTS:
                self._product(node)
            elif node.target is EMBEDDING:
                self._embedding(node)
            elif node.target in MOVES:
                self._move(node)
            elif node.target is CONCATENATE:
                self._concatenate(node)
            elif node.target in CHAIN_ACTIVATIONS and node.args[0] in self._chain:
                source = self._activation(node.args[0], chain=True)
                self._write(node, {node.args[0]: source}, self._activation(node, chain=True), chain=True)
            elif node.target in ARITHMETIC and all(
                isinstance(arg, Node) and arg in self._chain for arg in node.args[:2]
            ):
                self._tail(node, {arg: self._activation(arg, chain=True) for arg in node.args[:2]}, chain=True)
        return model

    def _activation(self, value: Node, *, chain: bool) -> QuantizationSpec:
        """The encoding of a value: with a zero point, unless a matrix product reads it."""
        return _activation(self.observer, symmetric=self.symmetric or value in self._symmetric, chain=chain)

    def _read(self, value: Node) -> QuantizationSpec:
        """The encoding of a value that is read: the same for all readers, and that in which it was written.

        A chain begins with a value that convolutions alone read. What was only moved has its source's other readers.
        """
        begins = (
            value not in self._quantized
            and value.target not in MOVES
            and all(user.target in CONVOLUTIONS for user in value.users)
        )
        return self._activation(value, chain=value in self._chain or begins)

    def _weight(self, axis: int) -> QuantizationSpec:
        return _weight(axis, self.weight_bits, per_channel=self.per_channel)

    def _layer(self, node: Node) -> None:
        data, weight = node.args[0], node.args[1]
        if not isinstance(data, Node) or not isinstance(weight, Node) or weight.op != "get_attr":
            self.skipped.append((node.name, "its weight is computed, not constant"))
            return
        chain = node.target in CONVOLUTIONS or data in self._chain
        self._tail(node, {data: self._read(data), weight: self._weight(0)}, chain=chain)

    def _product(self, node: Node) -> None:
        left, right = node.args[0], node.args[1]
        assert isinstance(left, Node) and isinstance(right, Node), "tensors by schema"
        if any(value in self._outputs for side in (left, right) for value in _moved_from(side)):
            self.skipped.append((node.name, "it reads an output of the model, which has to stay exact"))
            return
        specs: dict[Node, QuantizationSpecBase] = {}
        for side in (left, right):
            if side.op == "get_attr" and side is right and value_of(side).dim() == 2:
                specs[side] = self._weight(1)
            elif side.target in SOFTMAX and self._is_of_integers(side):
                specs[side] = PROBABILITY
                if not _annotation(side):
                    side.meta["quantization_annotation"] = QuantizationAnnotation(
                        output_qspec=PROBABILITY, _annotated=True
                    )
            else:
                specs[side] = self._read(side)
        self._tail(node, specs, chain=False)

    def _is_of_integers(self, softmax: Node) -> bool:
        """Whether nothing that computes stands between it and a quantized value: runtimes make one kernel of that."""
        value = softmax.args[0]
        while isinstance(value, Node) and value not in self._quantized:
            value = value.args[0] if value.target is aten.mul.Tensor and value.args[1] == 1 else None
        return value is not None

    def _embedding(self, node: Node) -> None:
        table = node.args[0]
        if not isinstance(table, Node) or table.op != "get_attr":
            return
        self._write(node, {table: TABLE}, None, chain=False)

    def _move(self, node: Node) -> None:
        source = node.args[0]
        if not isinstance(source, Node) or source not in self._quantized or not _keeps_values(node):
            return
        shared = SharedQuantizationSpec((source, node))
        if source in self._symmetric:  # one part of it may go into a product where this one does not
            self._symmetric.add(node)
        chain = source in self._chain
        self._write(node, {source: self._activation(source, chain=chain)}, shared, chain=chain)

    def _concatenate(self, node: Node) -> None:
        """Constants (a class token) share the encoding, too: LiteRT's converter would round them to it by itself."""
        parts = node.all_input_nodes
        inner = [part for part in parts if part in self._chain]
        if not inner or any(part.op != "get_attr" for part in parts if part not in self._chain):
            return
        first = inner[0]
        shared = SharedQuantizationSpec((first, node))
        specs: dict[Node, QuantizationSpecBase] = dict.fromkeys(parts, shared)
        specs[first] = self._activation(first, chain=True)
        self._write(node, specs, shared, chain=True)

    def _tail(self, node: Node, inputs: dict[Node, QuantizationSpecBase], *, chain: bool) -> None:
        """Annotate a node; its output encoding stands behind the activation that a runtime fuses into it."""
        follower = next(iter(node.users)) if len(node.users) == 1 else None
        if follower is not None and follower.target in FUSED_ACTIVATIONS:
            self._write(node, inputs, None, chain=False)
            self._write(follower, {}, self._activation(follower, chain=chain), chain=chain)
        else:
            self._write(node, inputs, self._activation(node, chain=chain), chain=chain)

    def _write(
        self,
        node: Node,
        inputs: dict[Node, QuantizationSpecBase],
        output: QuantizationSpecBase | None,
        *,
        chain: bool,
    ) -> None:
        node.meta["quantization_annotation"] = QuantizationAnnotation(
            input_qspec_map=dict(inputs), output_qspec=output, _annotated=True
        )
        self.annotated += 1
        if output is not None:
            self._quantized.add(node)
        if chain:
            self._chain.add(node)


def _operands(model: GraphModule) -> set[Node]:
    """What matrix products read, back to the layers that made it.

    These get symmetric encodings: OpenVINO multiplies two activations in integers only where the second has no zero
    point. Queries, keys and values are centred on zero, so it costs them next to nothing.
    """
    found: set[Node] = set()
    for node in model.graph.nodes:
        if node.target not in PRODUCTS:
            continue
        for side in node.args[:2]:
            found.update(value for value in _moved_from(side) if value.target not in SOFTMAX)
    return found


def _moved_from(value: object) -> Iterator[Node]:
    """A value and, back through operations that only move values, what it was made of."""
    while isinstance(value, Node):
        yield value
        value = value.args[0] if value.target in MOVES else None


def _annotation(node: Node) -> bool:
    return "quantization_annotation" in node.meta


def _keeps_values(node: Node) -> bool:
    """True when a node only moves values; padding does when it pads with zeros, which every encoding can express."""
    if node.target is aten.constant_pad_nd.default:
        return len(node.args) < 3 or bool(node.args[2] == 0)
    if node.target is aten.pad.default:
        return len(node.args) < 3 or (node.args[2] == "constant" and (len(node.args) < 4 or not node.args[3]))
    return node.target is not operator.getitem
