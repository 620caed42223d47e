"""Convolutional classifiers of the published tables."""

from __future__ import annotations

from bench.prediction_models import Net, Shape, classifier, inverted_residual, round_to_8

IMAGE = Shape(224, 224, 3)


def mobilenet_v1(width: float = 1.0, size: int = 224) -> Net:
    """arXiv:1704.04861, table 1."""
    net = Net()
    x = net.conv(Shape(size, size, 3), round_to_8(32 * width), 3, 2)
    table = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for c, s in table:
        x = net.conv(net.dw(x, 3, s), round_to_8(c * width))
    return classifier(net, x, 1000)


def mobilenet_v2(width: float = 1.0, size: int = 224) -> Net:
    """arXiv:1801.04381, table 2."""
    net = Net()
    x = net.conv(Shape(size, size, 3), round_to_8(32 * width), 3, 2)
    for t, c, n, s in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1,
        1)
    ]:  # fmt: skip
        for i in range(n):
            x = inverted_residual(net, x, x.c * t, round_to_8(c * width), 3, s if i == 0 else 1)
    x = net.conv(x, round_to_8(1280 * max(1.0, width)))
    return classifier(net, x, 1000)


_V3_LARGE = [
    (3, 16, 16, 0, 1), (3, 64, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1), (5, 120,
    40, 1, 1), (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112,
    1, 1), (3, 672, 112, 1, 1), (5, 672, 160, 1, 2), (5, 960, 160, 1, 1), (5, 960, 160, 1, 1),
]  # fmt: skip
_V3_SMALL = [
    (3, 16, 16, 1, 2), (3, 72, 24, 0, 2), (3, 88, 24, 0, 1), (5, 96, 40, 1, 2), (5, 240, 40, 1, 1), (5, 240,
    40, 1, 1), (5, 120, 48, 1, 1), (5, 144, 48, 1, 1), (5, 288, 96, 1, 2), (5, 576, 96, 1, 1), (5, 576, 96, 1,
    1),
]  # fmt: skip


def mobilenet_v3(size: str = "large", width: float = 1.0) -> Net:
    """arXiv:1905.02244, tables 1 and 2; the hard-swish of the wide layers is an operation of its own."""
    net = Net()
    x = net.elementwise(net.conv(IMAGE, round_to_8(16 * width), 3, 2), "hardswish")
    for index, (k, hidden, c, se, s) in enumerate(_V3_LARGE if size == "large" else _V3_SMALL):
        wide, swish = round_to_8(hidden * width), index >= (6 if size == "large" else 3)
        x = inverted_residual(
            net,
            x,
            wide,
            round_to_8(c * width),
            k,
            s,
            round_to_8(wide / 4) if se else 0,
            activation="hardswish" if swish else "relu",
        )
    x = net.elementwise(net.conv(x, round_to_8((960 if size == "large" else 576) * width)), "hardswish")
    return classifier(net, x, 1280 if size == "large" else 1024, 1000)


def resnet(depth: int = 50, groups: int = 1, base: int = 64, size: int = 224, head: bool = True) -> Net:
    """arXiv:1512.03385, table 1, stride in the 3x3 (torchvision); groups 32, base 4: ResNeXt (1611.05431)."""
    net = Net()
    x = net.pool(net.conv(Shape(size, size, 3), 64, 7, 2))
    blocks = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for i in range(count):
            s = 2 if stage and i == 0 else 1
            c = width if depth == 18 else width * 4
            if s != 1 or x.c != c:
                net.conv(x, c, 1, s)
            net.held = x.size
            if depth == 18:
                x = net.conv(net.conv(x, width, 3, s), width, 3)
            else:
                inner = width * base // 64 * groups
                x = net.conv(net.conv(net.conv(x, inner), inner, 3, s, groups), c)
            net.held = 0
            net.add(x)
    return classifier(net, x, 1000) if head else net


def vgg16() -> Net:
    """arXiv:1409.1556, table 1, configuration D."""
    net, x = Net(), IMAGE
    for c, n in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(n):
            x = net.conv(x, c, 3)
        x = net.pool(x)
    x = Shape(1, 1, x.size)
    for c in (4096, 4096, 1000):
        x = net.linear(x, c)
    return net


def squeezenet(version: str = "1.1", size: int = 224) -> Net:
    """arXiv:1602.07360, table 1; 1.1 as in its repository (3x3 stem of 64, earlier pooling)."""
    net = Net()
    first, k, pools = (64, 3, (0, 2, 4)) if version == "1.1" else (96, 7, (0, 3, 7))
    x = net.conv(Shape(size, size, 3), first, k, 2)
    for i, s in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        if i in pools:
            x = net.pool(x)
        y = net.conv(x, s)
        x = net.concat(net.conv(y, s * 4), net.conv(y, s * 4, 3))
    net.conv(x, 1000)
    net.mean(Shape(x.h, x.w, 1000))
    return net


def googlenet() -> Net:
    """arXiv:1409.4842, table 1 (its 5x5 branch is a 3x3 in torchvision, followed here)."""
    net = Net()
    x = net.pool(net.conv(IMAGE, 64, 7, 2))
    x = net.pool(net.conv(net.conv(x, 64), 192, 3))
    for a, b1, b2, c1, c2, d, pool in [
        (64, 96, 128, 16, 32, 32, 0), (128, 128, 192, 32, 96, 64, 1), (192, 96, 208, 16, 48, 64, 0),
        (160, 112, 224, 24, 64, 64, 0), (128, 128, 256, 24, 64, 64, 0), (112, 144, 288, 32, 64, 64, 0),
        (256, 160, 320, 32, 128, 128, 1), (256, 160, 320, 32, 128, 128, 0), (384, 192, 384, 48, 128, 128, 0),
    ]:  # fmt: skip
        branches = [net.conv(x, a), net.conv(net.conv(x, b1), b2, 3), net.conv(net.conv(x, c1), c2, 3)]
        x = net.concat(*branches, net.conv(net.pool(x, 1), d))
        x = net.pool(x) if pool else x
    return classifier(net, x, 1000)


def densenet121() -> Net:
    """arXiv:1608.06993, table 1; a batch norm before a convolution is not folded, so it moves its input."""
    net = Net()
    x = net.pool(net.conv(IMAGE, 64, 7, 2))
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            y = net.conv(net.conv(net.elementwise(x), 128), 32, 3)
            x = net.concat(x, y)
        if stage < 3:
            x = net.pool(net.conv(net.elementwise(x), x.c // 2))
    return classifier(net, x, 1000)


def efficientnet_b0(size: int = 224) -> Net:
    """arXiv:1905.11946, table 1."""
    net = Net()
    x = net.swish(net.conv(Shape(size, size, 3), 32, 3, 2))
    for t, c, n, s, k in EFFICIENTNET:
        for i in range(n):
            x = inverted_residual(net, x, x.c * t, c, k, s if i == 0 else 1, max(1, x.c // 4), activation="swish")
    return classifier(net, net.swish(net.conv(x, 1280)), 1000)


EFFICIENTNET = [
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2,
    5), (6, 320, 1, 1, 3),
]  # fmt: skip


def efficientnet_v2_s(size: int = 384) -> Net:
    """arXiv:2104.00298, table 4."""
    net = Net()
    x = net.swish(net.conv(Shape(size, size, 3), 24, 3, 2))
    for fused, t, c, n, s in [
        (1, 1, 24, 2, 1), (1, 4, 48, 4, 2), (1, 4, 64, 4, 2), (0, 4, 128, 6, 2), (0, 6, 160, 9, 1), (0, 6,
        256, 15, 2)
    ]:  # fmt: skip
        for i in range(n):
            se = 0 if fused else x.c // 4
            x = inverted_residual(net, x, x.c * t, c, 3, s if i == 0 else 1, se, bool(fused), activation="swish")
    return classifier(net, net.swish(net.conv(x, 1280)), 1000)


def regnet_y_800mf() -> Net:
    """arXiv:2003.13678, table 4: widths 64 144 320 784, depths 1 3 8 2, groups of 16."""
    net = Net()
    x = net.conv(IMAGE, 32, 3, 2)
    for c, n in ((64, 1), (144, 3), (320, 8), (784, 2)):
        for i in range(n):
            s = 2 if i == 0 else 1
            if s == 2:
                net.conv(x, c, 1, s)
            y = net.conv(net.conv(x, c), c, 3, s, c // 16)
            x = net.add(net.conv(net.squeeze_excite(y, x.c // 4), c))
    return classifier(net, x, 1000)


def mobilenet_v4(size: str = "s") -> Net:
    """arXiv:2404.10518, tables 11 to 13: Conv-S at 224, Conv-M at 256, Conv-L at 384."""
    stem, fused, blocks, image = MOBILENET_V4[size]
    net = Net()
    x = net.conv(Shape(image, image, 3), stem, 3, 2)
    for hidden, c, s in fused:
        x = net.conv(net.conv(x, hidden, 3, s), c)
    for start, middle, hidden, c, s in blocks:
        keep, y = s == 1 and x.c == c, x
        y = net.dw(y, start, 1 if middle else s) if start else y
        y = net.conv(y, hidden)
        y = net.dw(y, middle, s) if middle else y
        x = net.conv(y, c)
        x = net.add(x) if keep else x
    y = net.conv(x, 960)
    return classifier(net, y, 1280, 1000)


# Start and middle depthwise kernels (0: none), expanded and output channels, stride.
_S = [
    (5, 5, 96, 96, 2), *[(0, 3, 192, 96, 1)] * 4, (3, 0, 384, 96, 1), (3, 3, 576, 128, 2),
    (5, 5, 512, 128, 1), (0, 5, 512, 128, 1), (0, 5, 384, 128, 1), *[(0, 3, 512, 128, 1)] * 2,
]  # fmt: skip
_M = [
    (3, 5, 192, 80, 2), (3, 3, 160, 80, 1), (3, 5, 480, 160, 2), *[(3, 3, 640, 160, 1)] * 2,
    (3, 5, 640, 160, 1), (3, 3, 640, 160, 1), (3, 0, 640, 160, 1), (0, 0, 320, 160, 1), (3, 0, 640, 160, 1),
    (5, 5, 960, 256, 2), (5, 5, 1024, 256, 1), *[(3, 5, 1024, 256, 1)] * 2, (0, 0, 1024, 256, 1),
    (3, 0, 1024, 256, 1), (3, 5, 512, 256, 1), (5, 5, 1024, 256, 1), *[(0, 0, 1024, 256, 1)] * 2,
    (5, 0, 512, 256, 1),
]  # fmt: skip
_L = [
    (3, 5, 192, 96, 2), (3, 3, 384, 96, 1), (3, 5, 384, 192, 2), *[(3, 3, 768, 192, 1)] * 3,
    (3, 5, 768, 192, 1), *[(5, 3, 768, 192, 1)] * 5, (3, 0, 768, 192, 1), (5, 5, 768, 512, 2),
    *[(5, 5, 2048, 512, 1)] * 3, (5, 0, 2048, 512, 1), (5, 3, 2048, 512, 1), *[(5, 0, 2048, 512, 1)] * 2,
    (5, 3, 2048, 512, 1), (5, 5, 2048, 512, 1), *[(5, 0, 2048, 512, 1)] * 3,
]  # fmt: skip
MOBILENET_V4 = {
    "s": (32, [(32, 32, 2), (96, 64, 2)], _S, 224),
    "m": (32, [(128, 48, 2)], _M, 256),
    "l": (24, [(96, 48, 2)], _L, 384),
}
