"""160 sentences in 40 groups of four (a sentence, its paraphrase, two of the same field), split by group."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from examples.minilm.model import LENGTH, build, model_folder

Arrays = dict[str, NDArray[np.generic]]
Predict = Callable[[Arrays], Arrays]
Part = Literal["calibration", "held-out"]


@cache
def sentences_of(part: Part) -> tuple[str, ...]:
    """112 sentences to calibrate, 48 held out: of every ten groups the 3rd, 6th and 9th."""
    groups = Path(__file__).with_name("sentences.txt").read_text(encoding="utf-8").strip().split("\n\n")
    chosen = [group for number, group in enumerate(groups, 1) if (number % 10 in (3, 6, 9)) == (part == "held-out")]
    return tuple(sentence for group in chosen for sentence in group.split("\n"))


@cache
def tokenize(sentences: tuple[str, ...]) -> Arrays:
    """Sentences, cut or padded to 128 tokens: {"input_ids", "attention_mask": int64 [n, 128]}."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)
    encoded = tokenizer(list(sentences), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
    return {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}


def _one_by_one(part: Part) -> Iterator[Arrays]:
    tokens = tokenize(sentences_of(part))
    for index in range(len(sentences_of(part))):
        yield {name: array[index : index + 1] for name, array in tokens.items()}


def calibration() -> Iterator[Arrays]:
    """112 sentences, one at a time: {"input_ids", "attention_mask": int64 [1, 128]}."""
    return _one_by_one("calibration")


def validation() -> Iterator[Arrays]:
    """48 held-out sentences, one at a time: {"input_ids", "attention_mask": int64 [1, 128]}."""
    return _one_by_one("held-out")


def similarities(embedding: NDArray[np.generic]) -> NDArray[np.float64]:
    """Cosine of every pair of rows: [n, 384] -> float64 [n * (n - 1) / 2]."""
    rows = np.asarray(embedding, dtype=np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows @ rows.T)[np.triu_indices(len(rows), k=1)]


@cache
def original_similarities() -> NDArray[np.float64]:
    """What the original float32 model makes of the 48 held-out sentences: float64 [1128], computed once."""
    tokens = tokenize(sentences_of("held-out"))
    longest = int(tokens["attention_mask"].sum(1).max())  # the padding behind it changes nothing but the time
    with torch.inference_mode():
        outputs = build()(**{name: torch.from_numpy(array[:, :longest]) for name, array in tokens.items()})
    return similarities(outputs["embedding"].numpy())


def correlation(predict: Predict) -> float:
    """Spearman's rank correlation of the 1128 pairwise similarities with the original model's: at most 1.

    Args:
        predict: from {"input_ids", "attention_mask": int64 [48, 128]} to {"embedding": [48, 384]}.
    """
    embedding = predict(tokenize(sentences_of("held-out")))["embedding"]
    return float(spearmanr(similarities(embedding), original_similarities()).statistic)
