"""What `capture(dynamic_shapes=...)` says of each input tensor, and how a model is traced by it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from edgewright.errors import CaptureError, did_you_mean
from edgewright.pipeline.program import resized
from edgewright.pipeline.shapes import Dim
from edgewright.pipeline.user_code import current_line

Axes = dict[int, str]
FORM = '{"tokens": {1: ew.Dim("sequence", min=8, max=256)}}'


@dataclass(frozen=True)
class OpenAxes:
    """The open dimensions, and for each input tensor, in order, the axes where they stand."""

    dims: tuple[Dim, ...]
    axes: tuple[Axes, ...]


def read_axes(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], dynamic_shapes: Any) -> OpenAxes:
    """Read `dynamic_shapes`: by argument name, or in the order of the arguments; nested as the inputs are.

    Raises:
        CaptureError: unknown names, axes that a tensor lacks, dimensions without a largest size.
    """
    given = {**_named(model, args), **kwargs}
    if isinstance(dynamic_shapes, Mapping):
        shapes = dict(dynamic_shapes)
    elif isinstance(dynamic_shapes, Sequence) and not isinstance(dynamic_shapes, str):
        shapes = dict(zip(given, dynamic_shapes, strict=False))
    else:
        raise CaptureError("dynamic_shapes is a dict or a tuple", got=repr(dynamic_shapes), expected=FORM)
    for name in shapes:
        if name not in given:
            raise CaptureError("dynamic_shapes names no input", got=name, expected=did_you_mean(str(name), given))
    found = [axes for name, value in given.items() for axes in _leaves(value, shapes.get(name), name)]
    dims: dict[str, Dim] = {}
    for entry in (entry for axes in found for entry in axes.values() if not isinstance(entry, str)):
        dim = _dim(entry)
        if dims.setdefault(dim.name, dim) != dim:
            raise CaptureError("two dimensions have this name", got=f"{dim} and {dims[dim.name]}")
    unknown = sorted({entry for axes in found for entry in axes.values() if isinstance(entry, str)} - set(dims))
    if unknown:
        raise CaptureError("a dimension without bounds", got=", ".join(unknown), expected=FORM)
    named = (
        {axis: entry if isinstance(entry, str) else _dim(entry).name for axis, entry in axes.items()} for axes in found
    )
    return OpenAxes(tuple(dims.values()), tuple(named))


def _named(model: nn.Module, args: Sequence[Any]) -> dict[str, Any]:
    parameters = list(inspect.signature(model.forward).parameters.values())
    if args and parameters[min(len(args), len(parameters)) - 1].kind is inspect.Parameter.VAR_POSITIONAL:
        first = next(place for place, entry in enumerate(parameters) if entry.kind is entry.VAR_POSITIONAL)
        return dict(zip((entry.name for entry in parameters), (*args[:first], tuple(args[first:])), strict=False))
    return {parameters[place].name: value for place, value in enumerate(args)}


def _leaves(value: Any, shape: Any, where: str) -> Iterator[dict[int, Any]]:
    """One dict of axes a tensor, in the order of the tensors in the nested value."""
    if isinstance(value, Tensor):
        entries = dict(shape) if isinstance(shape, Mapping) else dict(enumerate(shape or ()))
        wrong = [axis for axis in entries if not isinstance(axis, int) or not -value.ndim <= axis < value.ndim]
        if wrong:
            raise CaptureError("the tensor has no such axis", got=wrong, expected=f"below {value.ndim}", where=where)
        yield {axis % value.ndim: entry for axis, entry in entries.items() if not isinstance(entry, int | None)}
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (shape or {}).get(key), f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _leaves(inner, shape[place] if shape else None, f"{where}.{place}")
    else:
        yield from ({} for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))


def _dim(entry: Any) -> Dim:
    if isinstance(entry, Dim):
        return entry
    name, least, most = (getattr(entry, key, None) for key in ("__name__", "min", "max"))
    if name is None or not isinstance(least, int) or not isinstance(most, int) or hasattr(entry, "root"):
        raise CaptureError(
            "an open dimension has a name and a largest size",
            got=repr(entry),
            expected=FORM,
            do="validation runs the least and the largest size, so both have to be known",
        )
    return Dim(str(name), max(least, 1), most)


def tracing_sizes(model: nn.Module, dims: Iterable[Dim]) -> dict[str, int]:
    """A size for each dimension that no weight of the model has: a prime where the bounds hold one.

    Whether two sizes of the graph are the same is decided by them, so none may be another's by chance. (Tracing at
    size 1 would fix a dimension.)
    """
    taken = {size for tensor in (*model.parameters(), *model.buffers()) for size in tensor.shape}
    found: dict[str, int] = {}
    for dim in dims:
        small = range(max(dim.min, 2), min(dim.max, max(dim.min, 2) + 200) + 1)
        free = [size for size in small if size not in taken and size not in found.values()]
        primes = [size for size in free if size > 10 and all(size % factor for factor in range(2, size))]
        found[dim.name] = next(iter([*primes, *reversed(free), dim.max]))
    return found


def at_sizes(inputs: Any, shapes: OpenAxes, sizes: Mapping[str, int]) -> Any:
    """The (nested) inputs with each open axis at its size. The elements are repeated or cut: to trace with only."""
    axes = iter(shapes.axes)

    def fit(tensor: Tensor) -> Tensor:
        wanted = next(axes)
        shape = [sizes[wanted[axis]] if axis in wanted else size for axis, size in enumerate(tensor.shape)]
        return resized(tensor, shape)

    return pytree.tree_map_only(Tensor, fit, inputs)


def for_export(args: tuple[Any, ...], kwargs: dict[str, Any], shapes: OpenAxes) -> Any:
    """The same as torch.export wants it: nested like the inputs."""
    dims = {dim.name: torch.export.Dim(dim.name, min=dim.min, max=dim.max) for dim in shapes.dims}
    axes = iter(shapes.axes)

    def leaf(value: Any) -> Any:
        return {axis: dims[name] for axis, name in next(axes).items()} if isinstance(value, Tensor) else None

    nested = pytree.tree_map(leaf, (args, kwargs))
    return nested[1] if kwargs else nested[0]


class GuardLines(logging.Handler):
    """While a model is traced, notes the user's lines at which it compares or fixes an open size."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self._log = logging.getLogger("torch.fx.experimental.symbolic_shapes")

    def emit(self, record: logging.LogRecord) -> None:
        line = current_line() if record.getMessage().startswith("eval ") else None
        if line is not None and line not in self.lines:
            self.lines.append(line)

    def __enter__(self) -> GuardLines:
        self._before = self._log.handlers, self._log.propagate
        self._log.handlers, self._log.propagate = [self], False
        # Neither the logger's level nor logging.disable(), which the command line calls, may hide these records.
        self._log.__dict__["isEnabledFor"] = lambda level: level >= logging.INFO
        return self

    def __exit__(self, *exc: object) -> None:
        del self._log.__dict__["isEnabledFor"]
        self._log.handlers, self._log.propagate = self._before


def violations(message: str) -> str | None:
    """What torch.export says that a model asks of open dimensions, in short; None for other errors."""
    if "Constraints violated" not in message:
        return None
    fixes = message.partition("Suggested fixes:")[2].strip().split("\n\n")[0]
    return "; ".join(line.strip() for line in fixes.split("\n") if line.strip()) or message.split("\n")[0]
