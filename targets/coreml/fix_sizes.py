"""A package with open dimensions, fixed at their largest sizes: the form that is inspected."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewright.pipeline.shapes import SHAPES, OpenShapes, sized


@contextmanager
def at_largest(path: Path) -> Iterator[Path]:
    """The package itself where it records no open dimensions.

    Only the inputs are fixed: coremltools infers all other shapes anew when it reads a package.
    """
    from coremltools.models.utils import load_spec

    recorded = load_spec(str(path)).description.metadata.userDefined.get(SHAPES)
    if not recorded:
        yield path
        return
    shapes = OpenShapes.parse(recorded)
    with tempfile.TemporaryDirectory() as folder:
        fixed = Path(folder) / path.name
        shutil.copytree(path, fixed)
        file = next(fixed.glob("Data/*/model.mlmodel"))
        file.write_bytes(_fixed(file.read_bytes(), shapes))
        yield fixed


def _fixed(content: bytes, shapes: OpenShapes) -> bytes:
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString(content)
    wanted = {name: sized(shape, shapes.largest) for name, shape in shapes.inputs.items()}
    for port in spec.description.input:
        port.type.multiArrayType.ClearField("shapeRange")
        port.type.multiArrayType.shape[:] = wanted[port.name]
    for function in spec.mlProgram.functions.values():
        for value in function.inputs:
            for dimension, size in zip(value.type.tensorType.dimensions, wanted[value.name], strict=True):
                dimension.constant.size = size
    return bytes(spec.SerializeToString())
