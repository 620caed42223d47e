"""A small modern CNN for 28 x 28 digits: depthwise-separable, residual and concatenation blocks."""

import torch
from torch import Tensor, nn


def conv_bn_relu(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps height and width, batch norm, ReLU: [n, inputs, h, w] -> [n, outputs, h, w]."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class SeparableBlock(nn.Module):
    """A depthwise 3 x 3 convolution, then a pointwise one: [n, inputs, h, w] -> [n, outputs, h, w]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = conv_bn_relu(inputs, inputs, 3, groups=inputs)
        self.pointwise = conv_bn_relu(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions added to their input, then ReLU: shape kept, [n, channels, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_bn_relu(channels, channels, 3)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.second(self.first(x)))


class BranchBlock(nn.Module):
    """A 1 x 1 and a 3 x 3 convolution, concatenated: [n, inputs, h, w] -> [n, 2 * each, h, w]."""

    def __init__(self, inputs: int, each: int) -> None:
        super().__init__()
        self.narrow = conv_bn_relu(inputs, each, 1)
        self.wide = conv_bn_relu(inputs, each, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.narrow(x), self.wide(x)], dim=1)


class DigitNet(nn.Module):
    """Classify a digit.

    Args of forward:
        image: float32 [batch, 1, 28, 28], normalized as `data.py` does.
    Returns of forward:
        {"logits": float32 [batch, 10]}
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(1, 32, 3)
        self.separable = SeparableBlock(32, 64)
        self.residual = ResidualBlock(64)
        self.branch = BranchBlock(64, 48)
        self.head = conv_bn_relu(96, 128, 1)
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.pool(self.stem(image))  # [n, 32, 14, 14]
        x = self.residual(self.separable(x))  # [n, 64, 14, 14]
        x = self.head(self.branch(self.pool(x)))  # [n, 128, 7, 7]
        return {"logits": self.classifier(self.average(x).flatten(1))}


def build() -> nn.Module:
    """The net with fresh weights; `digits.safetensors` holds the trained parameters and buffers."""
    return DigitNet()
