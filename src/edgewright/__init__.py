"""edgewright: one PyTorch model in; for every device that you name, a small, verified package out.

    program  = ew.capture(model, example_inputs)
    result   = ew.compress(program, [{"pass": "quantize", "scheme": "w8a8"}], batches=batches)
    artifact = ew.lower(result.program, target="tflite", folder="out")
    verdict  = ew.validate(artifact, reference=result.program, batches=batches)
    release  = ew.export("release.toml", out="dist")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "capture": "edgewright.pipeline.capture",
    "compress": "edgewright.pipeline.compress",
    "export": "edgewright.pipeline.export",
    "lower": "edgewright.pipeline.lowering",
    "open": "edgewright.pipeline.lowering",
    "validate": "edgewright.pipeline.validate",
    "verify": "edgewright.pipeline.verify",
    "Artifact": "edgewright.targets.base",
    "Dim": "edgewright.pipeline.shapes",
    "Program": "edgewright.pipeline.program",
    "Training": "edgewright.pipeline.training",
}
_RENAMED = {"open": "open_artifact"}
__all__ = [
    "Artifact",
    "Dim",
    "Program",
    "Training",
    "__version__",
    "capture",
    "compress",
    "export",
    "lower",
    "open",
    "validate",
    "verify",
]

if TYPE_CHECKING:
    from edgewright.pipeline.capture import capture
    from edgewright.pipeline.compress import compress
    from edgewright.pipeline.export import export
    from edgewright.pipeline.lowering import lower
    from edgewright.pipeline.lowering import open_artifact as open
    from edgewright.pipeline.program import Program
    from edgewright.pipeline.shapes import Dim
    from edgewright.pipeline.training import Training
    from edgewright.pipeline.validate import validate
    from edgewright.pipeline.verify import verify
    from edgewright.targets.base import Artifact


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgewright' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), _RENAMED.get(name, name))
