"""Detectors and transformers of the published tables."""

from __future__ import annotations

from math import ceil

from bench.prediction_cnns import EFFICIENTNET, mobilenet_v1
from bench.prediction_models import Net, Shape, classifier, inverted_residual, round_to_8

# EfficientDet-Lite (google/automl efficientdet/hparams_config.py): image, width, depth of the backbone,
# channels and repeats of the BiFPN, repeats of the heads.
DETECTORS = {
    "lite0": (320, 1.0, 1.0, 64, 3, 3),
    "lite1": (384, 1.0, 1.1, 88, 4, 3),
    "lite2": (448, 1.1, 1.2, 112, 5, 3),
    "lite3": (512, 1.2, 1.4, 160, 6, 4),
    "lite3x": (640, 1.2, 1.4, 200, 6, 4),
    "lite4": (640, 1.4, 1.8, 224, 7, 4),
}


def efficientnet_lite(net: Net, image: int, width: float, depth: float) -> list[Shape]:
    """Its stages without squeeze-excite; stem, first and last stage keep their depth (EfficientNet-Lite)."""
    x = net.conv(Shape(image, image, 3), 32, 3, 2)
    features = []
    for stage, (t, c, n, s, k) in enumerate(EFFICIENTNET):
        repeats = n if stage in (0, 6) else ceil(n * depth)
        for i in range(repeats):
            x = inverted_residual(net, x, x.c * t, round_to_8(c * width), k, s if i == 0 else 1)
        features.append(x)
    return features


def efficientdet_lite(name: str) -> Net:
    """arXiv:1911.09070, figures 2 and 3, with the Lite settings above."""
    image, width, depth, channels, repeats, heads = DETECTORS[name]
    net = Net()
    features = efficientnet_lite(net, image, width, depth)
    levels = [features[2], features[4], features[6]]
    pyramid = [net.conv(level, channels) for level in levels]
    pyramid.append(net.pool(net.conv(levels[2], channels)))
    pyramid.append(net.pool(pyramid[-1]))
    for index in range(repeats):
        if index == 0:
            for level in levels[1:]:
                net.conv(level, channels)
        for i in (3, 2, 1, 0):
            net.upsample(pyramid[i + 1], pyramid[i].h, pyramid[i].w)
            _fuse(net, pyramid[i], 2)
        for i in (1, 2, 3, 4):
            net.pool(pyramid[i - 1])
            _fuse(net, pyramid[i], 3 if i < 4 else 2)
    for outputs in (9 * 90, 9 * 4):
        for level in pyramid:
            y = level
            for _ in range(heads):
                y = _separable(net, y, channels)
            _separable(net, y, outputs)
    anchors = sum(9 * level.h * level.w for level in pyramid)
    scores = Shape(1, anchors, 90)
    net.elementwise(scores, "logistic")
    net.op("detection_postprocess", scores.size + 4 * anchors, Shape(1, 100, 6))
    return net


def _fuse(net: Net, x: Shape, inputs: int) -> None:
    for _ in range(inputs - 1):
        net.add(x)
    _separable(net, x, x.c)


def _separable(net: Net, x: Shape, c: int) -> Shape:
    return net.conv(net.dw(x), c)


def ssd_mobilenet_v1(classes: int = 91) -> Net:
    """SSD (1512.02325) on MobileNetV1 at 300, six maps, as in TensorFlow's detection zoo."""
    net = mobilenet_v1(size=300)
    del net.layers[-2:]
    maps = [(19, 512, 3), (10, 1024, 6), (5, 512, 6), (3, 256, 6), (2, 256, 6), (1, 128, 6)]
    for before, after, inner in zip(maps[1:], maps[2:], (256, 128, 128, 64), strict=False):
        net.conv(net.conv(Shape(before[0], before[0], before[1]), inner), after[1], 3, 2)
    for side, channels, anchors in maps:
        for outputs in (4, classes):
            net.conv(Shape(side, side, channels), anchors * outputs)
    return net


def _silu(net: Net, x: Shape, c: int, k: int = 1, s: int = 1) -> Shape:
    """Ultralytics' Conv: a convolution and a SiLU."""
    return net.swish(net.conv(x, c, k, s))


def _c2f(net: Net, x: Shape, c: int, n: int, inner: str = "bottleneck", part: int = 2) -> Shape:
    """Ultralytics' C2f on one `part` of the channels, and with "c3k" or "half" YOLO11's C3k2."""
    hidden = c // part
    y = _silu(net, x, 2 * hidden)
    half = Shape(y.h, y.w, hidden)
    for _ in range(n):
        if inner == "c3k":
            narrow = hidden // 2
            z = _silu(net, half, narrow)
            for _ in range(2):
                z = net.add(_silu(net, _silu(net, z, narrow, 3), narrow, 3))
            _silu(net, net.concat(z, _silu(net, half, narrow)), hidden)
        else:
            _silu(net, _silu(net, half, hidden // 2 if inner == "half" else hidden, 3), hidden, 3)
            net.add(half)
    return _silu(net, net.concat(*[half] * (2 + n)), c)


def yolo(version: int, scale: str = "n", size: int = 640, classes: int = 80) -> Net:
    """YOLOv8 and YOLO11 by ultralytics/cfg/models (yolov8.yaml, yolo11.yaml), scales n and s."""
    width = {"n": 0.25, "s": 0.5}[scale]
    v11 = version == 11
    widths = (128, 256, 512, 512, 1024) if not v11 else (256, 512, 512, 512, 1024)
    net = Net()
    x = _silu(net, Shape(size, size, 3), int(64 * width), 3, 2)
    features = []
    plan = [
        (128, widths[0], 1),
        (256, widths[1], 1 if v11 else 2),
        (512, widths[2], 1 if v11 else 2),
        (1024, 1024, 1),
    ]
    for stage, (down, out, n) in enumerate(plan):
        x = _silu(net, x, int(down * width), 3, 2)
        kind = ("c3k" if stage > 1 else "half") if v11 else "bottleneck"
        x = _c2f(net, x, int(out * width), n, kind, 4 if v11 and stage < 2 else 2)
        features.append(x)
    c5 = int(1024 * width)
    y = _silu(net, x, c5 // 2)
    for _ in range(3):
        net.pool(y, 1)
    x = _silu(net, net.concat(*[y] * 4), c5)
    if v11:
        _c2psa(net, x)
    inner = "half" if v11 else "bottleneck"
    p3, p4, p5 = features[1], features[2], x
    m4 = _c2f(net, net.concat(net.upsample(p5, p4.h, p4.w), p4), int(512 * width), 1, inner)
    o3 = _c2f(net, net.concat(net.upsample(m4, p3.h, p3.w), p3), int(256 * width), 1, inner)
    o4 = _c2f(net, net.concat(_silu(net, o3, o3.c, 3, 2), m4), int(512 * width), 1, inner)
    o5 = _c2f(net, net.concat(_silu(net, o4, o4.c, 3, 2), p5), int(1024 * width), 1, "c3k" if v11 else inner)
    box, score = max(16, o3.c // 4, 64), max(o3.c, min(classes, 100))
    for level in (o3, o4, o5):
        net.conv(_silu(net, _silu(net, level, box, 3), box, 3), 64)
        if v11:
            z = _silu(net, net.swish(net.dw(_silu(net, net.swish(net.dw(level)), score))), score)
        else:
            z = _silu(net, _silu(net, level, score, 3), score, 3)
        net.conv(z, classes)
    return net


def _c2psa(net: Net, x: Shape) -> None:
    half = Shape(x.h, x.w, x.c // 2)
    net.conv(x, x.c)
    tokens = Shape(1, x.h * x.w, x.c // 2)
    net.attention(tokens, max(1, half.c // 64), half.c // 2)
    net.dw(half)
    net.conv(net.conv(half, half.c * 2), half.c)
    net.conv(x, x.c)


def encoder(n: int, c: int, heads: int, layers: int, patch: int = 0) -> Net:
    """A transformer encoder: ViT (arXiv:2010.11929) with a patch size, BERT (1810.04805) without."""
    net = Net()
    x = Shape(1, n, c)
    if patch:
        side = int((n - 1) ** 0.5)
        net.conv(Shape(side, side, 3 * patch * patch), c)
    for _ in range(layers):
        net.layernorm(x)
        net.attention(x, heads)
        net.add(x)
        net.layernorm(x)
        net.gelu(net.linear(x, 4 * c))
        net.linear(Shape(1, n, 4 * c), c)
        net.add(x)
    return classifier(net, x, 1000) if patch else net


def convnext(depths: tuple[int, ...] = (3, 3, 9, 3), widths: tuple[int, ...] = (96, 192, 384, 768)) -> Net:
    """arXiv:2201.03545, figure 4."""
    net = Net()
    x = net.conv(Shape(224, 224, 3), widths[0], 4, 4)
    for stage, (c, n) in enumerate(zip(widths, depths, strict=True)):
        if stage:
            x = net.conv(net.layernorm(x), c, 2, 2)
        for _ in range(n):
            y = net.layernorm(net.dw(x, 7))
            y = net.gelu(net.conv(y, 4 * c))
            x = net.add(net.conv(y, c))
    return classifier(net, x, 1000)
