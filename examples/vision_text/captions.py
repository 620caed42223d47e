"""What a picture shows, the captions that say it, and the word tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "square", "triangle", "cross", "ring", "star")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SIZES = ("small", "medium", "large")
POSITIONS = ("left", "right", "top", "bottom", "centre")

TEMPLATES = (
    "a {colour} {shape}",
    "a {size} {colour} {shape}",
    "a {colour} {shape} at the {position}",
    "a {size} {colour} {shape} at the {position}",
    "a picture of a {colour} {shape}",
    "a picture of a {size} {colour} {shape}",
    "the {shape} at the {position} is {colour}",
    "there is a {size} {shape} in {colour}",
)
CLASS_TEMPLATE = TEMPLATES[0]

LENGTH = 12
"""Tokens of a caption: the class token, at most ten words, padding."""
_WORDS = sorted({word for template in TEMPLATES for word in template.split() if "{" not in word})
VOCABULARY = ("<pad>", "<class>", *_WORDS, *SHAPES, *COLOURS, *SIZES, *POSITIONS)
_TOKEN_OF = {word: token for token, word in enumerate(VOCABULARY)}


@dataclass(frozen=True)
class Scene:
    """What one picture shows, in words."""

    shape: str
    colour: str
    size: str
    position: str

    def caption(self, template: str) -> str:
        """The template filled with this scene's words."""
        return template.format(shape=self.shape, colour=self.colour, size=self.size, position=self.position)

    def fits(self, other: "Scene", template: str) -> bool:
        """Whether `other`'s caption by `template` is true of this scene as well."""
        named = [field.name for field in fields(self) if "{" + field.name + "}" in template]
        return all(getattr(self, name) == getattr(other, name) for name in named)


CLASSES = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)


def tokenize(captions: Sequence[str]) -> NDArray[np.int64]:
    """Captions to tokens, int64 [len(captions), 12]: the class token, one token a word, zeros.

    Raises:
        ValueError: a word outside the vocabulary, or more than eleven words; names the caption.
    """
    tokens = np.zeros((len(captions), LENGTH), dtype=np.int64)
    for row, caption in zip(tokens, captions, strict=True):
        words = ["<class>", *caption.lower().split()]
        unknown = [word for word in words if word not in _TOKEN_OF]
        if unknown or len(words) > LENGTH:
            raise ValueError(f"caption {caption!r}: {len(words) - 1} words (at most {LENGTH - 1}), unknown: {unknown}")
        row[: len(words)] = [_TOKEN_OF[word] for word in words]
    return tokens


def class_tokens() -> NDArray[np.int64]:
    """The 36 class captions ("a red circle", ...) in the order of CLASSES, int64 [36, 12]."""
    return tokenize([CLASS_TEMPLATE.format(colour=colour, shape=shape) for colour, shape in CLASSES])
