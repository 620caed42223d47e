"""The quantization vocabulary: schemes by a grammar.

fp32 | fp16 | bf16 | w8a8, w4a8 (static) | w8a8-dynamic (scales of activations found at run time, row by row) |
w<bits>[g<group>] (weights alone) | p<bits> (palette of 2^bits)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgewright.errors import RecipeError, did_you_mean

GRAMMAR = re.compile(
    r"(?P<float>fp32|fp16|bf16)|p(?P<palette>[1-8])|w(?P<weight>2|4|8)(?:a(?P<activation>8|16)(?P<dynamic>-dynamic)?|g(?P<group>\d+))?"
)
WEIGHT_ONLY = ("w8", "w4", "w4g32", "w4g64", "w4g128", "w2g32")
DYNAMIC = "w8a8-dynamic"
PALETTES = tuple(f"p{bits}" for bits in range(1, 9))
NEAREST = {
    DYNAMIC: ("w8", "w8a8"),
    "w4a8": ("w8a8", "w4"),
    "w2g32": ("w4g32", "w8"),
    "bf16": ("fp16", "fp32"),
    "w8a16": ("w8", "w8a8"),
}
AVAILABLE = ("fp32", "fp16", "bf16", "w8a8", "w4a8", DYNAMIC, *WEIGHT_ONLY, *PALETTES)


@dataclass(frozen=True)
class Scheme:
    """How weights and activations are stored and computed.

    Args:
        weight_bits, activation_bits: 32 or 16 are floats.
        dynamic: activation scales are found at run time.
        group: weights that share a scale along the input axis; None is one scale an output channel.
        palette: weights are indices into a table of 2**weight_bits values.
    """

    name: str
    weight_bits: int
    activation_bits: int = 32
    dynamic: bool = False
    group: int | None = None
    palette: bool = False

    @staticmethod
    def parse(text: str) -> Scheme:
        """Read a scheme's name.

        Raises:
            RecipeError: it does not follow the grammar, or no pass makes it yet.
        """
        match = GRAMMAR.fullmatch(text)
        if match is None:
            expected = did_you_mean(text, AVAILABLE)
            raise RecipeError("unknown quantization scheme", got=repr(text), expected=expected)
        if text not in AVAILABLE:
            nearest = nearest_scheme(text, AVAILABLE)
            raise RecipeError(
                "no pass makes this scheme in this version",
                got=repr(text),
                expected=(f"{nearest!r}, the nearest, or " if nearest else "") + "one of: " + ", ".join(AVAILABLE),
            )
        if match["float"]:
            return Scheme(text, int(match["float"][2:]))
        if match["palette"]:
            return Scheme(text, int(match["palette"]), palette=True)
        return Scheme(
            text,
            int(match["weight"]),
            int(match["activation"] or 32),
            match["dynamic"] is not None,
            int(match["group"]) if match["group"] else None,
        )


def nearest_scheme(name: str, known: Iterable[str]) -> str | None:
    """What comes nearest to a scheme that a target lacks; None where nothing does.

    To a palette: of its bits or the next more, palettes before integers. To `w8a8-dynamic` and `w8a16`: the same
    weights with activations in float, or with scales from calibration. To `w2g32`: the same groups with more bits. To
    `bf16`: as many bits.
    """
    if name in NEAREST:
        return next((other for other in NEAREST[name] if other in known), None)
    wanted = GRAMMAR.fullmatch(name)
    if wanted is None or not wanted["palette"]:
        return None
    least = int(wanted["palette"])
    bits = {other: int(other[1:]) for other in known if other in (*PALETTES, "w8", "w4")}
    enough = [other for other in bits if bits[other] >= least]
    return min(enough, key=lambda other: (other[0] != "p", bits[other]), default=None)
