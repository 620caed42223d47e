"""Program -> .mlpackage: coremltools' converter, then bytes that depend on the program alone."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from edgewright.pipeline.decompose_once import decomposing_once
from edgewright.pipeline.exported import as_exported
from edgewright.pipeline.program import Program
from edgewright.pipeline.quiet import quiet
from edgewright.pipeline.shapes import SHAPES
from edgewright.targets.coreml.compact import share_constants
from edgewright.targets.coreml.imports import import_coremltools
from edgewright.targets.coreml.refusals import unknown_operations
from edgewright.targets.coreml.validating import validating_once
from edgewright.targets.coreml.weights import register_weights

AUTHOR = "com.apple.CoreML"
WRAPPED = "_wrapped_as_tensor_for_coreml"
DTYPES = "edgewright.dtypes"


def write_mlpackage(program: Program, path: Path, *, spec: int = 8) -> None:
    """Convert a legalized program and save it under `path`, a folder ending in .mlpackage.

    `spec` is the specification's version: 7 with iOS 16, 8 with iOS 17, 9 with iOS 18.

    Raises TargetError with every operation that coremltools cannot convert.

    Arithmetic is float32, unless the program's weights are float16: then it is float16, Core ML's native form.
    """
    from edgewright.pipeline.lowering import refuse

    with quiet(), decomposing_once():
        ct = import_coremltools()
        half = "float16" in program.weight_bytes()
        register_weights()
        exported = as_exported(program).run_decompositions({})
        refuse(unknown_operations(exported))
        with validating_once():
            converted = ct.convert(
                exported,
                outputs=[ct.TensorType(name=spec.name) for spec in program.outputs],
                minimum_deployment_target=ct.target(spec),
                compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
                skip_model_load=True,
            )
        with tempfile.TemporaryDirectory() as folder:
            saved = Path(folder) / "model.mlpackage"
            converted.save(str(saved))
            shutil.rmtree(path, ignore_errors=True)
            notes = {DTYPES: json.dumps({spec.name: spec.dtype for spec in program.outputs})}
            if program.dims:
                notes[SHAPES] = program.shapes.text()
            _write_stable(saved / "Data" / AUTHOR, path, notes)


def _write_stable(data: Path, path: Path, notes: Mapping[str, str]) -> None:
    """Write the package anew: coremltools' own has random identifiers, a date and map entries in any order.

    Core ML has no int64 and no bool at its surface, so the program's own output dtypes stand in the metadata.
    """
    from coremltools.models.utils import rename_feature
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((data / "model.mlmodel").read_bytes())
    for port in list(spec.description.input):  # Core ML has no input without axes: coremltools gives it one, of size 1
        rename_feature(spec, port.name, port.name.removesuffix(WRAPPED), rename_outputs=False)
    share_constants(spec)
    spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    spec.description.metadata.userDefined.update(notes)
    folder = path / "Data" / AUTHOR
    folder.mkdir(parents=True)
    (folder / "model.mlmodel").write_bytes(spec.SerializeToString(deterministic=True))
    items = [("model.mlmodel", "CoreML Model Specification")]
    if (data / "weights").is_dir():
        shutil.copytree(data / "weights", folder / "weights")
        items.append(("weights", "CoreML Model Weights"))
    entries = {
        str(uuid.uuid5(uuid.NAMESPACE_URL, f"edgewright:{name}")): {
            "author": AUTHOR,
            "description": description,
            "name": name,
            "path": f"{AUTHOR}/{name}",
        }
        for name, description in items
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": next(iter(entries)),
    }
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=4) + "\n")
