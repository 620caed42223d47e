"""The standard library's source as tokens: its files, split by the hash of their names, and a byte-level BPE."""

import hashlib
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.stdlib_lm.model import LENGTH, VOCABULARY

Part = Literal["train", "calibration", "held-out"]

TOKENIZER = Path(__file__).with_name("tokenizer.json")
FILE_START = "<|file|>"
"""The token before each file; its id is 0."""

_LEFT_OUT = {"test", "tests", "site-packages", "dist-packages"}
"""Folders at any depth."""
_LEFT_OUT_AT_THE_TOP = {
    *("distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo", "turtle.py"),  # packaged apart by some
    *("encodings", "pydoc_data"),  # tables and help texts
    *("__phello__", "__hello__.py", "sitecustomize.py", "usercustomize.py"),
}
_BUILD_FILES = ("config-", "_sysconfigdata")
"""Names at the top that start so tell of one machine's build."""
_STATEMENT = re.compile(r"^(?: {4})?(?:async def|def|class) .*$", re.MULTILINE)


def library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def files(root: Path) -> list[str]:
    """The .py files that belong to the corpus, relative to `root`, with forward slashes, sorted."""
    found: list[tuple[str, ...]] = []
    for top in root.iterdir():
        if top.name not in _LEFT_OUT | _LEFT_OUT_AT_THE_TOP and not top.name.startswith(_BUILD_FILES):
            paths = top.rglob("*.py") if top.is_dir() else [top] if top.suffix == ".py" else []
            found += [path.relative_to(root).parts for path in paths]
    return sorted("/".join(parts) for parts in found if not _LEFT_OUT.intersection(parts))


def hash_of(text: str) -> int:
    """A number of 64 bits that is the same everywhere: the head of the SHA-256 of the text as UTF-8."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def part_of(name: str) -> Part:
    """The part of a file, by the hash of its relative name: of ten files eight train, one calibrates, one is held out.

    So a file that another version adds or lacks moves no other file from one part to another.
    """
    remainder = hash_of(name) % 10
    return "held-out" if remainder == 0 else "calibration" if remainder == 1 else "train"


def files_of(part: Part, root: Path) -> list[str]:
    return [name for name in files(root) if part_of(name) == part]


@cache
def load_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER))


def train_tokenizer(root: Path) -> Tokenizer:
    """A byte-level BPE of 1024 entries over the training files: any text has tokens, and decodes to itself.

    Source: Sennrich et al. 2016, arXiv:1508.07909, section 3.2; over bytes as in GPT-2 (Radford et al. 2019).
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[FILE_START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = ((root / name).read_text(encoding="utf-8") for name in files_of("train", root))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def training_stream(root: Path) -> NDArray[np.int64]:
    """All training files in order, each behind a `FILE_START`: int64 [tokens]."""
    tokenizer = load_tokenizer()
    pieces = []
    for name in files_of("train", root):
        text = (root / name).read_text(encoding="utf-8")
        pieces.append(np.array([0, *tokenizer.encode(text).ids], dtype=np.int64))
    return np.concatenate(pieces)


def windows_of(part: Part, count: int, root: Path) -> NDArray[np.int64]:
    """`count` windows of 128 tokens and the one that follows, each from a `def` or `class` on: int64 [count, 129].

    Every line of the part's files that starts a function, a method or a class is a candidate; those with the smallest
    hash of file name and line are taken. So what a patch release edits changes the windows that it edits, and no other.
    """
    starts: dict[str, tuple[str, int]] = {}
    for name in files_of(part, root):
        text = (root / name).read_text(encoding="utf-8")
        for match in _STATEMENT.finditer(text):
            starts.setdefault(f"{name}:{match.group()}", (text, match.start()))
    return np.stack([window for _, window in zip(range(count), _long_enough(starts), strict=False)])


def _long_enough(starts: dict[str, tuple[str, int]]) -> Iterator[NDArray[np.int64]]:
    tokenizer = load_tokenizer()
    for key in sorted(starts, key=hash_of):
        text, start = starts[key]
        ids = tokenizer.encode(text[start : start + 32 * LENGTH]).ids
        if len(ids) > LENGTH:
            yield np.array(ids[: LENGTH + 1], dtype=np.int64)
