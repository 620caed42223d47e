"""Make an IR small: for a model of 100 KB its XML takes as much again, most of it whitespace and repetition."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from edgewright.pipeline.shapes import SHAPES

KEPT_NOTES = (SHAPES, "runtime_options")


def compact_xml(path: Path, names: set[str]) -> None:
    """Rewrite an .xml file in place, without a change to the graph that it states.

    Dropped: indentation; the converter's notes, but for what the runtime reads; the shapes of input ports, which repeat
    those of the outputs; the tensor names of inner values (all but `names`, the model's own); constants that read the
    same bytes of the .bin in the same form, down to one (every FakeQuantize repeats its range for input and output).
    """
    tree = ElementTree.parse(path)
    root = tree.getroot()
    for element in root.iter():
        element.tail = None
        if element.text is not None and not element.text.strip():
            element.text = None
    for notes in root.findall("rt_info"):
        for note in [note for note in notes if note.tag not in KEPT_NOTES]:
            notes.remove(note)
        if not len(notes):
            root.remove(notes)
    _share_constants(root)
    taken = {str(layer.get("name")) for layer in root.iter("layer")}
    for layer in root.iter("layer"):
        _shorten(layer, names, taken)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def recorded_shapes(path: Path) -> str | None:
    """What the lowering recorded of a file's open dimensions."""
    content = path.read_bytes()
    if SHAPES.encode() not in content:  # most files: a session shall not hold the tree of a large one
        return None
    note = ElementTree.fromstring(content).find(f"rt_info/{SHAPES}")
    return None if note is None else note.get("value")


def _share_constants(root: Element) -> None:
    layers, edges = root.find("layers"), root.find("edges")
    if layers is None or edges is None:
        return
    first: dict[tuple[tuple[str, str], ...], str] = {}
    kept: dict[str, str] = {}
    for layer in list(layers):
        data = layer.find("data")
        if layer.get("type") != "Const" or data is None:
            continue
        here = str(layer.get("id"))
        kept[here] = first.setdefault(tuple(sorted(data.items())), here)
        if kept[here] != here:
            layers.remove(layer)
    for edge in edges:
        source = str(edge.get("from-layer"))
        edge.set("from-layer", kept.get(source, source))


def _shorten(layer: Element, names: set[str], taken: set[str]) -> None:
    for port in layer.findall("input/port"):
        for dimension in port.findall("dim"):
            port.remove(dimension)
        port.attrib.pop("precision", None)
    for port in layer.findall("output/port"):
        if port.get("names") not in names:
            port.attrib.pop("names", None)
    short = str(layer.get("name")).removeprefix("node_")
    if short not in taken:  # OpenVINO 2024 refuses a file with one name twice
        taken.add(short)
        layer.set("name", short)
