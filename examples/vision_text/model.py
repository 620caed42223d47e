"""A CLIP-like model in plain PyTorch: a residual CNN and a pre-norm transformer that share a 64-wide space.

Source: Radford et al. 2021, arXiv:2103.00020, section 2 (the two towers, the learned logit scale).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.vision_text.captions import LENGTH, VOCABULARY

EMBEDDING = 64


def conv_bn(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution and batch norm: [n, inputs, h, w] -> [n, outputs, h / stride, w / stride]."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs))


class ResidualStage(nn.Module):
    """Halve height and width, then two convolutions and an add: [n, i, h, w] -> [n, o, h/2, w/2]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = conv_bn(inputs, outputs, stride=2)
        self.first = conv_bn(outputs, outputs)
        self.second = conv_bn(outputs, outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.down(x))
        return self.relu(x + self.second(self.relu(self.first(x))))


class ImageEncoder(nn.Module):
    """Picture to embedding.

    Args of forward:
        image: float32 [batch, 3, 32, 32], normalized as `data.py` does.
    Returns of forward:
        {"embedding": float32 [batch, 64], of length 1}
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 32), nn.ReLU())
        self.stages = nn.Sequential(ResidualStage(32, 32), ResidualStage(32, 64), ResidualStage(64, 128))
        self.average = nn.AdaptiveAvgPool2d(1)
        self.project = nn.Linear(128, EMBEDDING)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.average(self.stages(self.stem(image))).flatten(1)
        return {"embedding": F.normalize(self.project(features), dim=-1)}


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values: [n, length, width] kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        per_head = (n, length, self.heads, width // self.heads)
        query, key, value = (part.reshape(per_head).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(query, key, value)  # [n, heads, length, width / heads]
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


class TransformerLayer(nn.Module):
    """Pre-norm attention and a GELU network four times as wide, each added to its input: shape kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.mlp(self.norm_mlp(x))


class TextEncoder(nn.Module):
    """Caption to embedding, read at the first token (the class token).

    Args of forward:
        tokens: int64 [texts, 12], from `captions.tokenize`; padding takes part as a token of its own.
    Returns of forward:
        {"embedding": float32 [texts, 64], of length 1}
    """

    def __init__(self, width: int = 96, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(len(VOCABULARY), width)
        self.positions = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        self.layers = nn.Sequential(*(TransformerLayer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, EMBEDDING)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.layers(self.words(tokens) + self.positions)
        return {"embedding": F.normalize(self.project(self.norm(x[:, 0])), dim=-1)}


class VisionText(nn.Module):
    """Score every picture against every caption.

    Args of forward:
        image: float32 [batch, 3, 32, 32].
        tokens: int64 [texts, 12].
    Returns of forward:
        {"logits": float32 [batch, texts], "image_embedding": float32 [batch, 64],
        "text_embedding": float32 [texts, 64]}; logits are cosines times the learned scale.
    """

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder()
        self.text_encoder = TextEncoder()
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, image: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        image_embedding = self.image_encoder(image)["embedding"]
        text_embedding = self.text_encoder(tokens)["embedding"]
        logits = self.log_scale.exp() * (image_embedding @ text_embedding.transpose(0, 1))
        return {"logits": logits, "image_embedding": image_embedding, "text_embedding": text_embedding}


def build() -> nn.Module:
    """The model with fresh weights; `vision_text.safetensors` holds the trained parameters and buffers."""
    return VisionText()
