"""The JSON Schemas of our files, published with the package so that others can check and generate code for them.

The pydantic models are the source. `python -m edgewright.pipeline.schemas` writes the .json files beside this one anew;
a test fails when they differ.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright.errors import EdgewrightError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

FOLDER = Path(__file__).resolve().parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"

# Imported by name, so that reading one schema does not load what the other models need.
SCHEMAS = {
    "device": "edgewright.device_profiles.schema:DeviceProfile",
    "manifest": "edgewright.pipeline.manifest:Manifest",
    "release": "edgewright.pipeline.results:ReleaseResult",
    "release-file": "edgewright.pipeline.release:Release",
}
# What people write is described as they may write it; what we write, as we write it: every field is there.
WRITTEN_BY_US = frozenset({"manifest", "release"})


def model_of(name: str) -> type[BaseModel]:
    """The pydantic model behind a schema.

    Raises:
        EdgewrightError: no such schema.
    """
    if name not in SCHEMAS:
        raise EdgewrightError("unknown schema", got=repr(name), expected=did_you_mean(name, SCHEMAS))
    module, _, attribute = SCHEMAS[name].partition(":")
    model: type[BaseModel] = getattr(importlib.import_module(module), attribute)
    return model


def schema_json(name: str) -> str:
    """A schema as text: sorted keys, two spaces, a newline at the end.

    Raises:
        EdgewrightError: no such schema.
    """
    mode: Any = "serialization" if name in WRITTEN_BY_US else "validation"
    content = {"$schema": DIALECT, **model_of(name).model_json_schema(mode=mode)}
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def schema_file(name: str) -> Path:
    """Where a schema lies in the installed package."""
    return FOLDER / f"{name}.schema.json"


def write_schemas() -> list[Path]:
    """Write every schema anew; the files that changed."""
    changed = []
    for name in SCHEMAS:
        file, text = schema_file(name), schema_json(name)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            changed.append(file)
    return changed
