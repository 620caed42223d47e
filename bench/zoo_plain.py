"""Architectures in plain PyTorch, small, with random weights: the blocks that phones run."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(convolution(inputs, inputs, 3, stride, groups=inputs), convolution(inputs, outputs, 1))


def ds_cnn() -> nn.Module:
    """MLPerf Tiny's keyword spotting: a spectrogram of 49 x 10."""
    stem = nn.Sequential(nn.Conv2d(1, 64, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(64), nn.ReLU())
    blocks = [separable(64, 64) for _ in range(4)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.short = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.short(x))


def resnet8() -> nn.Module:
    """MLPerf Tiny's image classification: 32 x 32 pixels."""
    blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
    return nn.Sequential(convolution(3, 16), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mobilenet_v1_quarter() -> nn.Module:
    """MLPerf Tiny's visual wake words: MobileNetV1 at a width of 0.25."""
    widths = [8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256]
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    pairs = zip(widths, widths[1:], strides, strict=False)
    blocks = [separable(inputs, outputs, stride) for inputs, outputs, stride in pairs]
    return nn.Sequential(convolution(3, 8, 3, 2), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 2))


def autoencoder() -> nn.Module:
    """MLPerf Tiny's anomaly detection."""
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 640))


class UNet(nn.Module):
    """Two levels, transposed convolutions upwards."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = convolution(3, 16), convolution(16, 32), convolution(32, 64)
        self.up_two, self.up_one = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.join_two, self.join_one = convolution(64, 32), convolution(32, 16)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        one = self.one(image)
        two = self.two(F.max_pool2d(one, 2))
        three = self.three(F.max_pool2d(two, 2))
        two = self.join_two(torch.cat([self.up_two(three), two], 1))
        return self.head(self.join_one(torch.cat([self.up_one(two), one], 1)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU], *, bidirectional: bool = False) -> None:
        super().__init__()
        self.layer = kind(20, 32, 2, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(64 if bidirectional else 32, 5)

    def forward(self, sequence: Tensor) -> Tensor:
        return self.head(self.layer(sequence)[0][:, -1])


class Ghost(nn.Module):
    """GhostNet's module: cheap depthwise features beside the real ones."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.primary, self.cheap = convolution(inputs, half, 1), convolution(half, half, 3, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)


def ghostnet() -> nn.Module:
    blocks = [Ghost(16, 32), nn.MaxPool2d(2), Ghost(32, 48), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(convolution(3, 16, 3, 2), *blocks, nn.Linear(48, 10))


class InvertedResidual(nn.Module):
    """MobileNetV3's block, with squeeze and excitation and hard swish."""

    def __init__(self, width: int, expanded: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, expanded, 1, bias=False), nn.BatchNorm2d(expanded), nn.Hardswish())
        self.depthwise = nn.Sequential(
            nn.Conv2d(expanded, expanded, 5, padding=2, groups=expanded, bias=False),
            nn.BatchNorm2d(expanded),
            nn.Hardswish(),
        )
        self.squeeze, self.excite = nn.Conv2d(expanded, expanded // 4, 1), nn.Conv2d(expanded // 4, expanded, 1)
        self.project = nn.Sequential(nn.Conv2d(expanded, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        scale = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.project(y * scale)


def mobilenet_v3() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
    blocks = [InvertedResidual(16, 64), InvertedResidual(16, 72)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 64), nn.Hardswish(), nn.Linear(64, 10)]
    return nn.Sequential(stem, *blocks, *head)


class Meta(nn.Module):
    """EfficientFormer's block: pooling as the token mixer, layer scales."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.up, self.down = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)
        self.norm_up, self.norm_down = nn.BatchNorm2d(4 * width), nn.BatchNorm2d(width)
        self.mixer_scale = nn.Parameter(torch.full((width, 1, 1), 0.3))
        self.mlp_scale = nn.Parameter(torch.full((width, 1, 1), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer_scale * (self.pool(x) - x)
        return x + self.mlp_scale * self.norm_down(self.down(F.gelu(self.norm_up(self.up(x)))))


def efficientformer() -> nn.Module:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    return nn.Sequential(convolution(3, 16, 3, 2), convolution(16, 32, 3, 2), Meta(32), Meta(32), *head)


def super_resolution() -> nn.Module:
    """ESPCN: convolutions at the small size, then a pixel shuffle."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.Tanh(), nn.Conv2d(32, 16, 3, padding=1), nn.Tanh(),
        nn.Conv2d(16, 9, 3, padding=1), nn.PixelShuffle(3),
    )  # fmt: skip


def decoder_transposed() -> nn.Module:
    """Transposed convolutions with padding and output padding."""
    return nn.Sequential(
        nn.ConvTranspose2d(16, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1), nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 3, 1, 1), nn.Tanh(),
    )  # fmt: skip


def grouped() -> nn.Module:
    """ResNeXt's grouped convolutions, with dilation and a shuffle of channels."""
    return nn.Sequential(
        convolution(3, 32), convolution(32, 64, 3, 2, groups=8), nn.ChannelShuffle(4),
        nn.Conv2d(64, 64, 3, padding=2, dilation=2, groups=4), nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
            mixed = scores.softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, attention: nn.Module, norm: Callable[[int], nn.Module], mlp: nn.Module, width: int) -> None:
        super().__init__()
        self.attention, self.mlp = attention, mlp
        self.norm_attention, self.norm_mlp = norm(width), norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.mlp(self.norm_mlp(x))


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def attention(*, fused: bool) -> nn.Module:
    blocks = [Block(Attention(64, 4, fused=fused), nn.LayerNorm, mlp(64), 64) for _ in range(2)]
    return nn.Sequential(*blocks, nn.LayerNorm(64), nn.Linear(64, 16))


class Gated(nn.Module):
    """A gated linear unit, with SiLU as in language models or with PyTorch's own glu."""

    def __init__(self, width: int, *, swish: bool) -> None:
        super().__init__()
        self.swish = swish
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        if not self.swish:
            return self.down(F.glu(self.up(x), -1))
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


def gated() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), Gated(64, swish=False), Gated(64, swish=True), nn.Linear(64, 8))


def rms_normalized() -> nn.Module:
    blocks = [Block(Attention(64, 4, fused=True), nn.RMSNorm, Gated(64, swish=True), 64) for _ in range(2)]
    return nn.Sequential(*blocks, nn.RMSNorm(64), nn.Linear(64, 16))


class Rotary(nn.Module):
    """Causal attention with rotary embeddings that forward() computes from positions."""

    def __init__(self, width: int = 64, heads: int = 4, length: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(100, width)
        self.qkv, self.head = nn.Linear(width, 3 * width), nn.Linear(width, 100)
        size = width // heads
        self.frequencies: Tensor
        self.register_buffer("frequencies", 10000.0 ** (-torch.arange(0, size, 2).float() / size))

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[-2], device=x.device).float()[:, None] * self.frequencies
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
        return torch.stack(turned, -1).flatten(-2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        batch, length, width = x.shape
        query, key, value = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.turn(query), self.turn(key), value, is_causal=True)
        return self.head(x + mixed.transpose(1, 2).reshape(batch, length, width))


class Resized(nn.Module):
    """A segmentation head: features of two levels, resized bilinearly to the picture's size."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = convolution(3, 16, 3, 2), convolution(16, 32, 3, 2), nn.Conv2d(48, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        one = self.one(image)
        two = F.interpolate(self.two(one), size=one.shape[-2:], mode="bilinear", align_corners=False)
        return F.interpolate(self.head(torch.cat([one, two], 1)), scale_factor=2, mode="bilinear", align_corners=True)


class Temporal(nn.Module):
    """A temporal convolutional network over audio features: causal, dilated, gated."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(width, 2 * width, 3, dilation=2**level) for level in range(3))
        self.norm, self.head = nn.GroupNorm(4, width), nn.Conv1d(width, 10, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = features
        for level, layer in enumerate(self.layers):
            signal, gate = layer(F.pad(x, (2 ** (level + 1), 0))).chunk(2, 1)
            x = x + torch.tanh(signal) * torch.sigmoid(gate)
        return self.head(self.norm(x)).mean(-1)


class Fusion(nn.Module):
    """A picture and tokens: two encoders, cross attention, and a dict of outputs."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.embed = nn.Embedding(60, width)
        self.cross = nn.MultiheadAttention(width, 4, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(width, 4, 128, batch_first=True, activation="gelu")
        self.head = nn.Linear(width, 7)

    def forward(self, image: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        seen = self.patches(image).flatten(2).transpose(1, 2)
        said = self.encoder(self.embed(tokens))
        mixed = said + self.cross(said, seen, seen, key_padding_mask=None, need_weights=False)[0]
        pooled = mixed.mean(1)
        return {"logits": self.head(pooled), "embedding": F.normalize(pooled, dim=-1)}
