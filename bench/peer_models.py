"""The four models of bench/peers.py: three plain PyTorch definitions with random weights, and MiniLM with its own.

Batch-norm scales, shifts and statistics are random about those of real data: with the initial ones (zero in the last of
each residual branch, in some libraries) a converter folds whole branches away, and with others than the data's the
signal dies out or explodes on its way through fifty layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.prediction_models import round_to_8

Arrays = dict[str, NDArray[np.generic]]
CALIBRATION, HELD_OUT = 16, 16
SENTENCES = 64  # to calibrate with: one has 15 tokens or so
BOTTLENECKS = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride
# kernel, hidden, out, squeeze-excite, hard-swish, stride
INVERTED = (
    (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2), (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)  # fmt: skip


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1, and the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_conv(inputs, width, 1), nn.ReLU(), *_conv(width, width, 3, stride), nn.ReLU(), *_conv(width, 4 * width, 1)
        )
        fits = stride == 1 and inputs == 4 * width
        self.shortcut = nn.Identity() if fits else nn.Sequential(*_conv(inputs, 4 * width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class Resnet50(nn.Module):
    """arXiv:1512.03385, table 1, with the stride in the 3x3: float32 [1, 3, 224, 224] -> [1, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks, channels = [], 64
        for width, count, stride in BOTTLENECKS:
            for place in range(count):
                blocks.append(Bottleneck(channels, width, stride if place == 0 else 1))
                channels = 4 * width
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(channels, 1000)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(image)).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """Scale channels by what two 1x1 convolutions make of their means."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    """Expand, depthwise, squeeze-excite, project; a shortcut where shapes allow it."""

    def __init__(self, inputs: int, size: int, hidden: int, outputs: int, se: int, swish: int, stride: int) -> None:
        super().__init__()
        activation: type[nn.Module] = nn.Hardswish if swish else nn.ReLU
        layers = [] if hidden == inputs else [*_conv(inputs, hidden, 1), activation()]
        layers += [*_conv(hidden, hidden, size, stride, hidden), activation()]
        if se:
            layers.append(SqueezeExcite(hidden, round_to_8(hidden / 4)))
        self.layers = nn.Sequential(*layers, *_conv(hidden, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobilenetV3(nn.Module):
    """arXiv:1905.02244, table 1 (large): float32 [1, 3, 224, 224] -> [1, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        blocks, channels = [], 16
        for size, hidden, outputs, se, swish, stride in INVERTED:
            blocks.append(Inverted(channels, size, hidden, outputs, se, swish, stride))
            channels = outputs
        self.stem = nn.Sequential(*_conv(3, 16, 3, 2), nn.Hardswish())
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(*_conv(channels, 960, 1), nn.Hardswish())
        self.head = nn.Sequential(nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.last(self.blocks(self.stem(image))).mean((2, 3)))


class EncoderBlock(nn.Module):
    """Pre-norm attention and perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        attended = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class VitTiny(nn.Module):
    """ViT-tiny/16 of arXiv:2012.12877: float32 [1, 3, 224, 224] -> [1, 1000]."""

    def __init__(self, width: int = 192, heads: int = 3, depth: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 197, width) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 1000)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def images(seed: int) -> Iterator[Arrays]:
    """Images without end, smooth shapes with some noise: {"image": float32 [1, 3, 224, 224]}, about unit variance."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        coarse = [torch.randn(1, 3, size, size, generator=generator) for size in (4, 16, 56)]
        smooth = sum(F.interpolate(part, 224, mode="bilinear") for part in coarse)
        noise = torch.randn(1, 3, 224, 224, generator=generator)
        yield {"image": (0.8 * smooth + 0.2 * noise).numpy()}


def randomize(model: nn.Module) -> nn.Module:
    """Batch norms with the statistics of images, each off by a random factor; random scales and shifts.

    The last norm of a residual branch gets a smaller scale than the others, as training leaves it: with equal ones a
    random network of this depth turns every rounding into noise as large as its signal.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    ends = [module.layers[-1] for module in model.modules() if isinstance(module, Inverted) and module.residual]
    ends += [module.branch[-1] for module in model.modules() if isinstance(module, Bottleneck)]
    for norm in norms:
        norm.momentum = None  # the plain mean over what it sees
        nn.init.uniform_(norm.weight, *((0.1, 0.5) if norm in ends else (0.5, 1.5)))
        nn.init.normal_(norm.bias, 0.0, 0.2)
    if norms:
        with torch.no_grad():
            model.train()(torch.cat([torch.from_numpy(sample["image"]) for sample in islice(images(2), 8)]))
            for norm in norms:
                assert norm.running_mean is not None and norm.running_var is not None, "tracked by default"
                norm.running_mean += 0.1 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
                norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
    return model.eval()


def sentences(part: str) -> Iterator[Arrays]:
    """MiniLM's inputs, length 128, spread over the example's sentences."""
    from examples.minilm.data import calibration, validation

    found, count = (list(calibration()), SENTENCES) if part == "calibration" else (list(validation()), HELD_OUT)
    return iter(found[:: len(found) // count][:count])


def minilm() -> nn.Module:
    from examples.minilm.model import build

    return build()


@dataclass(frozen=True)
class PeerModel:
    """One model with its data.

    Args:
        make: builds it; seeded before.
        transformer: what NNCF is told of its kind.
    """

    make: Callable[[], nn.Module]
    transformer: bool = False
    text: bool = False

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.make()
        return model.eval() if self.text else randomize(model)

    def calibration(self) -> list[Arrays]:
        return list(sentences("calibration") if self.text else islice(images(0), CALIBRATION))

    def held_out(self) -> list[Arrays]:
        return list(sentences("held-out") if self.text else islice(images(1), HELD_OUT))


MODELS = {
    "resnet50": PeerModel(Resnet50),
    "mobilenet_v3_large": PeerModel(MobilenetV3),
    "vit_tiny_patch16_224": PeerModel(VitTiny, transformer=True),
    "minilm": PeerModel(minilm, transformer=True, text=True),
}
