"""An IR with open dimensions, fixed at their largest sizes: the form that is inspected."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewright.pipeline.shapes import OpenShapes, sized
from edgewright.targets.openvino.compact import recorded_shapes


@contextmanager
def at_largest(path: Path) -> Iterator[Path]:
    """The file itself where it records no open dimensions."""
    recorded = recorded_shapes(path)
    if recorded is None:
        yield path
        return
    import openvino

    shapes = OpenShapes.parse(recorded)
    model = openvino.Core().read_model(str(path))
    model.reshape({port: list(sized(shapes.inputs[port.any_name], shapes.largest)) for port in model.inputs})
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, str(Path(folder) / path.name), compress_to_fp16=False)
        yield Path(folder) / path.name
