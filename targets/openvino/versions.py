"""Which releases of OpenVINO have an operation: a file opens where each of its own is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from edgewright.errors import TargetError
from edgewright.targets.base import Level

NARROW_MASK_OPSET = 15  # attention that broadcasts its mask came with the release that has this opset
TWO_BITS_OPSET = 17  # 2026.4, the first of our levels that computes our weights of 2 bits (2026.0 does not)


def needed_level(path: Path, levels: tuple[Level, ...]) -> Level:
    """The oldest level that has every operation of an .xml; the newest where none is known to."""
    newest = max((opset for _, opset in _operations(path)), default=1)
    return next((level for level in levels if level.format["opset"] >= newest), levels[-1])


def refuse_newer(path: Path, level: Level, levels: tuple[Level, ...]) -> None:
    """Raise TargetError where an .xml holds operations that `level` does not have, with all of them."""
    newer = sorted({found for found in _operations(path) if found[1] > level.format["opset"]})
    if newer:
        raise TargetError(
            f"the model needs operations that {_named(level.minimum)} does not have",
            got=", ".join(f"{kind} of opset {opset}" for kind, opset in newer),
            expected=f"at least {_named(needed_level(path, levels).minimum)}",
            do="name a newer runtime as the oldest, or change the layer behind these operations",
        )


def _named(minimum: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in minimum.items())


def _operations(path: Path) -> Iterator[tuple[str, int]]:
    """Every operation with its opset, or the newer one that came with what it asks for."""
    root = ElementTree.parse(path).getroot()
    layers = {str(layer.get("id")): layer for layer in root.iter("layer")}
    shapes = {
        (number, str(port.get("id"))): [str(size.text) for size in port.findall("dim")]
        for number, layer in layers.items()
        for port in layer.findall("output/port")
    }
    sources = {
        (str(edge.get("to-layer")), str(edge.get("to-port"))): (str(edge.get("from-layer")), str(edge.get("from-port")))
        for edge in root.iter("edge")
    }
    for number, layer in layers.items():
        version, kind = str(layer.get("version", "")).removeprefix("opset"), str(layer.get("type"))
        if kind == "ScaledDotProductAttention" and (number, "3") in sources:
            queries, keys, mask = (shapes[sources[number, port]] for port in ("0", "1", "3"))
            if mask[-2:] != [queries[-2], keys[-2]]:
                yield "ScaledDotProductAttention with a mask to broadcast, as", NARROW_MASK_OPSET
        if kind == "Const" and (data := layer.find("data")) is not None and data.get("element_type") == "u2":
            yield "Const of 2 bits, as", TWO_BITS_OPSET
        if version.isdecimal():
            yield kind, int(version)
