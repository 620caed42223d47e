"""A decoder-only language model in plain PyTorch: RMSNorm, rotary positions, SwiGLU, causal attention, tied head.

Source: Touvron et al. 2023, arXiv:2302.13971, section 2.2 (the architecture); Su et al. 2021, arXiv:2104.09864.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LENGTH = 128
"""Tokens of a window: the model sees no more."""
VOCABULARY = 1024
WIDTH, HIDDEN, HEADS, LAYERS = 256, 512, 4, 4
"""Multiples of 128 where a linear layer reads them, so that groups of 32, 64 and 128 divide its inputs."""


def rotary_tables(length: int, width: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position times frequency, each frequency twice: float32 [length, width] each."""
    frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies).repeat(1, 2)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + width / 2]) by its position's angle: [n, heads, length, width] kept."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


class Attention(nn.Module):
    """Causal multi-head self-attention with rotary positions: [n, length, width] kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        n, length, width = x.shape
        per_head = (n, length, self.heads, width // self.heads)
        query = rotate(self.query(x).reshape(per_head).transpose(1, 2), cosine, sine)
        key = rotate(self.key(x).reshape(per_head).transpose(1, 2), cosine, sine)
        value = self.value(x).reshape(per_head).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)  # [n, heads, length, width / heads]
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)): [n, length, width] kept."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class DecoderLayer(nn.Module):
    """Pre-norm attention and SwiGLU, each added to its input: [n, length, width] kept."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(width, eps=1e-5)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.RMSNorm(width, eps=1e-5)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x), cosine, sine)
        return x + self.mlp(self.norm_mlp(x))


class LanguageModel(nn.Module):
    """Tokens to scores of the token that follows each, by the products with the very words that are read (a tied head).

    Args of forward:
        tokens: int64 [batch, 128], each below 1024.
    Returns of forward:
        {"logits": float32 [batch, 128, 1024]}; those at a position depend on the tokens up to it alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(DecoderLayer(WIDTH, HIDDEN, HEADS) for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith(("out.weight", "down.weight"))  # what is added to the stream
                nn.init.normal_(parameter, std=0.02 / (2 * LAYERS) ** 0.5 if last else 0.02)
        cosine, sine = rotary_tables(LENGTH, WIDTH // HEADS)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.words(tokens)
        for layer in self.layers:
            x = layer(x, self.cosine, self.sine)
        return {"logits": F.linear(self.norm(x), self.words.weight)}


def build() -> nn.Module:
    """The model with fresh weights; `stdlib_lm.safetensors` holds the trained ones."""
    return LanguageModel()
