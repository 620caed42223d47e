"""A file with open dimensions, fixed at their largest sizes: the form that is inspected."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewright.pipeline.shapes import SHAPES, OpenShapes, sized


@contextmanager
def at_largest(path: Path) -> Iterator[Path]:
    """The file itself where it records no open dimensions."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    recorded = {entry.key: entry.value for entry in model.metadata_props}.get(SHAPES)
    if recorded is None:
        yield path
        return
    shapes = OpenShapes.parse(recorded)
    for value in model.graph.input:
        for size, fixed in zip(
            value.type.tensor_type.shape.dim, sized(shapes.inputs[value.name], shapes.largest), strict=True
        ):
            size.dim_value = fixed
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    with tempfile.TemporaryDirectory() as folder:
        fixed_path = Path(folder) / path.name
        fixed_path.write_bytes(model.SerializeToString())
        yield fixed_path
