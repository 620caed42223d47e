"""Small models that many tests share: each can break a pass or a converter. Seeds are fixed.

Use `SMALL[name]`: `.build()` gives the module, `.batches(n)` gives n dicts of inputs; `captured`, `folded`
and `quantized` give its programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.pipeline.capture import capture
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.decompose_attention import DecomposeAttention
from edgewright.pipeline.passes.drop_identities import DropIdentities
from edgewright.pipeline.passes.fold_batchnorm import FoldBatchnorm
from edgewright.pipeline.passes.fold_constants import FoldConstants
from edgewright.pipeline.passes.linear_products import LinearProducts
from edgewright.pipeline.passes.quantize_static import QuantizeStatic
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.program import Program

torch.set_num_threads(1)  # one thread gives the same bits everywhere

Batch = dict[str, Tensor]


class ConvBlock(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class Cnn(nn.Module):
    """Conv-bn-relu, depthwise, residual add, concatenation, pooling, mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBlock(1, 32)
        self.depthwise = ConvBlock(32, 32, groups=32)
        self.pointwise = ConvBlock(32, 64, size=1)
        self.residual = nn.Sequential(
            ConvBlock(64, 64), nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        )
        self.left = ConvBlock(64, 32, size=1)
        self.right = ConvBlock(64, 32)
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = F.max_pool2d(self.stem(image), 2)
        x = self.pointwise(self.depthwise(x))
        x = F.relu(x + self.residual(x))
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        x = F.max_pool2d(x, 2)
        return {"logits": self.head(x.mean((2, 3)))}


class EncoderBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """A transformer encoder over tokens; token 0 is padding and masked out."""

    def __init__(self, width: int = 128, heads: int = 4, length: int = 16, vocabulary: int = 50) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.1)
        self.block = EncoderBlock(width, heads)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.embed(tokens) + self.positions
        mask = (tokens != 0)[:, None, None, :]
        return {"embedding": self.project(self.block(x, mask).mean(1))}


@dataclass
class Scores:
    """What `TwoInputs` returns: a dataclass, seen by name on every target."""

    score: Tensor
    best: Tensor


class TwoInputs(nn.Module):
    """Float and integer inputs, float and integer outputs, in a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 64)
        self.dense = nn.Linear(48, 64)
        self.mix = nn.Linear(128, 96)
        self.score = nn.Linear(96, 6)

    def forward(self, features: Tensor, kind: Tensor) -> Scores:
        x = torch.cat([F.relu(self.dense(features)), self.embed(kind)], dim=1)
        score = self.score(F.relu(self.mix(x)))
        return Scores(score=score, best=score.argmax(dim=1))


class Mlp(nn.Module):
    """Linear layers and a bare tensor as the result."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Tied(nn.Module):
    """A table that is looked up, and multiplied with at the end: as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(96, 64), nn.Linear(64, 64), nn.Linear(64, 96, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(F.gelu(self.layer(self.words(tokens))))


def randomize_norms(model: nn.Module) -> nn.Module:
    """Batch-norm statistics as after training: with the initial ones, folding would change nothing."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            assert module.running_mean is not None, "tracked by default"
            assert module.running_var is not None, "tracked by default"
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0.0, 0.2)
            module.running_mean.normal_(0.0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@dataclass(frozen=True)
class SmallModel:
    """A model by name, with a source of inputs."""

    kind: Callable[[], nn.Module]
    draw: Callable[[torch.Generator], Batch]

    def build(self) -> nn.Module:
        """The same weights on every call, whatever ran before."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return randomize_norms(self.kind())

    def batches(self, count: int, seed: int = 1) -> list[Batch]:
        generator = torch.Generator().manual_seed(seed)
        return [self.draw(generator) for _ in range(count)]


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Values in [-2, 2): as for pixels, no value of tomorrow lies beyond those of the calibration."""
    return torch.rand(shape, generator=generator) * 4.0 - 2.0


SMALL = {
    "cnn": SmallModel(Cnn, lambda g: {"image": uniform(g, 1, 1, 16, 16)}),
    "encoder": SmallModel(Encoder, lambda g: {"tokens": torch.randint(0, 50, (1, 16), generator=g)}),
    "two_inputs": SmallModel(
        TwoInputs,
        lambda g: {
            "features": uniform(g, 1, 48),
            "kind": torch.randint(0, 12, (1,), generator=g),
        },
    ),
    "mlp": SmallModel(Mlp, lambda g: {"x": uniform(g, 1, 64)}),
}


CALIBRATION = 64  # batches: fewer, and a rare value beyond their range decides the quality
PREPARE = (DropIdentities(), FoldConstants(), FoldBatchnorm(), LinearProducts(), DecomposeAttention())


@cache
def captured(name: str) -> Program:
    """The program of a small model. Passes never touch it, so all tests share one."""
    return capture(SMALL[name].build(), SMALL[name].batches(1)[0])


@cache
def folded(name: str) -> Program:
    """Its float32 form, ready for any target."""
    return run_passes(captured(name), PREPARE).program


@cache
def quantized(name: str) -> Program:
    """Its w8a8 form."""
    context = Context(batches=SMALL[name].batches(CALIBRATION))
    return run_passes(folded(name), [QuantizeStatic(observer="minmax")], context).program


def outputs(program: Program, batches: Iterable[Batch], place: int = 0) -> Tensor:
    """One of a program's outputs over all batches, along the first axis."""
    return torch.cat([list(program.run(batch).values())[place] for batch in batches])
