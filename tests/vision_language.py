"""A small vision-language model, and a recipe with a scheme for each of its modules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.small_models import Batch


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vision(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, width, 4, 4), Block(width)

    def forward(self, image: Tensor) -> Tensor:
        return self.block(self.patches(image).flatten(2).transpose(1, 2))


class Language(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(100, width), Block(width), nn.Linear(width, 100)

    def forward(self, tokens: Tensor, prefix: Tensor) -> Tensor:
        return self.head(self.block(torch.cat([prefix, self.embed(tokens)], 1)))


class VisionLanguage(nn.Module):
    """A picture, through a projector, before the tokens of a language model."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.vision, self.projector, self.language = Vision(width), nn.Linear(width, width), Language(width)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        return self.language(tokens, self.projector(self.vision(image)))


def step(scheme: str, modules: str, **settings: Any) -> dict[str, Any]:
    return {"pass": "quantize", "scheme": scheme, "modules": modules, **settings}


POLICY = [
    step("w8a8", "vision.*|projector|!*.attention.*"),
    step("w4g32", "language.*|!@embedding|!@last", rounding="gptq"),
    step("w8", "@embedding|@last"),
    step("fp16", "*"),
]


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.rand(1, 3, 16, 16, generator=generator),
            "tokens": torch.randint(0, 100, (1, 12), generator=generator),
        }
        for _ in range(count)
    ]
