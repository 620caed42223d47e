"""`python -m edgewright.pipeline.schemas` writes the schema files anew and names those that changed."""

from __future__ import annotations

from edgewright.pipeline.schemas import write_schemas

for file in write_schemas():
    print(file.name)
