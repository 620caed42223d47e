"""Turn what pydantic found wrong with a file into sentences that name the key and suggest the near one."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ValidationError

from edgewright.errors import did_you_mean


def problems_of(error: ValidationError, schema: type[BaseModel]) -> list[str]:
    """One sentence a problem, such as "deliver.0.latencyms: unknown key, did you mean 'latency_ms'?"."""
    return [
        _problem(schema, detail["type"], detail["loc"], detail["msg"], detail["input"]) for detail in error.errors()
    ]


def _problem(schema: type[BaseModel], kind: str, path: tuple[int | str, ...], message: str, got: object) -> str:
    key = ".".join(str(part) for part in path) or "the whole file"
    if kind == "extra_forbidden":
        return f"{key}: unknown key, {did_you_mean(str(path[-1]), _keys_at(schema, path[:-1]))}"
    if kind == "missing":
        return f"{key}: missing"
    if kind == "value_error":
        return f"{key}: {message.removeprefix('Value error, ')}"
    return f"{key}: got {_short(got)}, expected: {message[0].lower()}{message[1:]}"


def _short(value: object) -> str:
    """A file that is no JSON would be printed whole."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _keys_at(schema: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that the schema knows at a place in the file."""
    model = schema
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model behind `Figure | None` or `tuple[Kernel, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
