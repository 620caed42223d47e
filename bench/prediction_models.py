"""Public architectures as layer tables: what a converter states in a file, without converting anything.

Each function returns the layers of one network at batch 1, written from the table in its paper (named beside
it) and from the reference implementation where the paper is silent. bench/prediction.py turns them into
inspections.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

from edgewright.targets.base import Inspection, Operation

BYTES = {"float32": 4, "float16": 2, "int8": 1}


@dataclass(frozen=True)
class Layer:
    """One operation: macs, elements of weights, of activations in and out, and alive meanwhile."""

    op: str
    macs: int
    weights: int
    reads: int
    writes: int
    alive: int


@dataclass(frozen=True)
class Shape:
    """A feature map: height, width, channels."""

    h: int
    w: int
    c: int

    @property
    def size(self) -> int:
        return self.h * self.w * self.c


@dataclass
class Net:
    """Layers in order; each method appends one and returns its output shape.

    `held` counts elements that are kept for later, such as a residual.
    """

    layers: list[Layer] = field(default_factory=list)
    held: int = 0

    def op(self, op: str, x: Shape | int, out: Shape, macs: int = 0, weights: int = 0) -> Shape:
        reads = x if isinstance(x, int) else x.size
        self.layers.append(Layer(op, macs, weights, reads, out.size, self.held + reads + out.size))
        return out

    def conv(self, x: Shape, c: int, k: int | tuple[int, int] = 1, s: int = 1, groups: int = 1) -> Shape:
        """Padding "same", which every network here uses (or sizes that give the same result)."""
        kh, kw = (k, k) if isinstance(k, int) else k
        out = Shape(ceil(x.h / s), ceil(x.w / s), c)
        weights = kh * kw * x.c // groups * c
        name = "depthwise_conv" if groups == x.c and groups > 1 else "conv"
        return self.op(name, x, out, out.h * out.w * weights, weights + c)

    def dw(self, x: Shape, k: int = 3, s: int = 1) -> Shape:
        return self.conv(x, x.c, k, s, x.c)

    def valid(self, x: Shape, c: int, k: int, s: int = 1) -> Shape:
        """A convolution without padding (Inception)."""
        inner = replace(x, h=(x.h - k) // s * s + 1, w=(x.w - k) // s * s + 1)
        return self.conv(inner, c, k, s)

    def pool(self, x: Shape, s: int = 2) -> Shape:
        return self.op("pool", x, Shape(ceil(x.h / s), ceil(x.w / s), x.c))

    def add(self, x: Shape) -> Shape:
        return self.op("add", 2 * x.size, x)

    def concat(self, *xs: Shape) -> Shape:
        out = replace(xs[0], c=sum(x.c for x in xs))
        return self.op("concat", out, out)

    def upsample(self, x: Shape, h: int, w: int) -> Shape:
        return self.op("resize", x, Shape(h, w, x.c))

    def mean(self, x: Shape) -> Shape:
        return self.op("mean", x, Shape(1, 1, x.c))

    def linear(self, x: Shape, c: int) -> Shape:
        """Over the last axis: also the matrix product of a transformer's tokens."""
        return self.op("linear", x, replace(x, c=c), x.size * c, x.c * c + c)

    def elementwise(self, x: Shape, op: str = "mul") -> Shape:
        return self.op(op, x, x)

    def swish(self, x: Shape) -> Shape:
        self.elementwise(x, "sigmoid")
        return self.op("mul", 2 * x.size, x)

    def steps(self, x: Shape, count: int, op: str) -> Shape:
        """What a converter takes apart: GELU into 5 elementwise operations, layer normalization into 7."""
        for _ in range(count):
            self.elementwise(x, op)
        return x

    def gelu(self, x: Shape) -> Shape:
        return self.steps(x, 5, "gelu")

    def layernorm(self, x: Shape) -> Shape:
        return self.steps(x, 7, "layernorm")

    def squeeze_excite(self, x: Shape, c: int) -> Shape:
        y = self.mean(x)
        self.conv(self.conv(y, c), x.c)
        return self.op("mul", x.size + x.c, x)

    def attention(self, x: Shape, heads: int, keys: int | None = None) -> Shape:
        """Tokens (1, n, c): projections, scores, softmax, context, output projection."""
        n, c = x.w, x.c
        for _ in range(3):
            self.elementwise(self.linear(x, c), "transpose")
        scores = Shape(heads, n, n)
        self.op("matmul", 2 * n * c, scores, n * n * (keys or c))
        self.elementwise(scores, "mul")
        self.elementwise(scores, "softmax")
        out = self.elementwise(self.op("matmul", scores.size + n * c, x, n * n * c), "transpose")
        return self.linear(out, c)


def inspection(net: Net, compute: str, name: str = "") -> Inspection:
    """The layers as a file states them, stored and computed in one dtype."""
    size = BYTES[compute]
    operations = tuple(
        Operation(f"{name}/{index}", row.op, compute, row.macs, row.weights * size, (row.reads + row.writes) * size)
        for index, row in enumerate(net.layers)
    )
    stored = {compute: sum(row.weights for row in net.layers) * size}
    return Inspection(name, operations, stored, None, max(row.alive for row in net.layers) * size)


def round_to_8(channels: float) -> int:
    """Slim's make_divisible: to the nearest multiple of 8, never below 90 %."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def inverted_residual(
    net: Net,
    x: Shape,
    hidden: int,
    c: int,
    k: int,
    s: int,
    se: int = 0,
    fused: bool = False,
    activation: str = "relu",
) -> Shape:
    """Expand, depthwise, (squeeze-excite), project, add (MobileNetV2, arXiv:1801.04381, figure 3)."""
    keep = s == 1 and x.c == c
    net.held = x.size if keep else 0
    y = x
    if fused:
        y = net.conv(y, hidden, k, s)
    else:
        if hidden != x.c:
            y = net.conv(y, hidden)
            y = _act(net, y, activation)
        y = net.dw(y, k, s)
    y = _act(net, y, activation)
    if se:
        y = net.squeeze_excite(y, se)
    if not fused or hidden != x.c:
        y = net.conv(y, c)
    net.held = 0
    return net.add(y) if keep else y


def _act(net: Net, x: Shape, activation: str) -> Shape:
    """ReLU costs nothing: every runtime fuses it."""
    if activation == "swish":
        return net.swish(x)
    return net.elementwise(x, activation) if activation != "relu" else x


def classifier(net: Net, x: Shape, *widths: int) -> Net:
    y = net.mean(x)
    for width in widths:
        y = net.linear(y, width)
    return net
