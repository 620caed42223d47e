"""A session that knows the bounds of a file's open dimensions, and names a size outside of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgewright.pipeline.shapes import OpenShapes
from edgewright.targets.base import Arrays, PortEncoding, Session


class SizedSession:
    """A session whose inputs are held against `shapes` first."""

    def __init__(self, session: Session, shapes: OpenShapes) -> None:
        self._session, self._shapes = session, shapes
        self.provenance, self.runtime = session.provenance, session.runtime

    @property
    def encodings(self) -> Mapping[str, PortEncoding]:
        return self._session.encodings

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Raises ShapeError for a size that the file does not take."""
        self._shapes.sizes(inputs)
        return self._session.run(inputs)

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> SizedSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def with_sizes(session: Session, recorded: str | None) -> Session:
    """The session as it is where the file records no open dimensions."""
    return SizedSession(session, OpenShapes.parse(recorded)) if recorded else session
