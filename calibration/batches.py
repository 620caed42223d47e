"""Calibration and validation data: from the user's callable, a file or a folder, checked before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgewright.errors import CalibrationError, ShapeError, did_you_mean
from edgewright.pipeline.shapes import Dim, OpenShapes

if TYPE_CHECKING:
    from torch import Tensor

Sample = dict[str, "np.ndarray[Any, Any]"]


class Port(Protocol):
    """What a declared input is: a name, a shape whose named dimensions are strings, a dtype."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int | str, ...]: ...
    @property
    def dtype(self) -> str: ...


def require_batches(batches: Sized, what: str) -> None:
    """Raise CalibrationError with `what` needs them, where there are none."""
    if not len(batches):
        raise CalibrationError(
            f"{what} needs calibration data",
            got="no batches",
            do="name a source under [calibration], or pass batches=",
        )


def load_samples(
    source: str, ports: Sequence[Port], samples: int, key: str, dims: tuple[Dim, ...] = (), *, more: bool = False
) -> list[Sample]:
    """Read up to `samples` samples, each of size 1 along a named first dimension.

    Args:
        source: "module:function" giving an iterable of dicts of arrays; an .npz or .safetensors file whose arrays are
            stacked along the first axis; or a folder of .npy files (one input) or images.
        key: where the release file names it, for messages.
        dims: the other named dimensions; samples may have any size within their bounds.
        more: samples may hold other arrays besides (labels); these are cut with the inputs where they are as long.
    Raises:
        CalibrationError: nothing there, wrong names, shapes or dtypes, NaN or infinity.
    """
    found: list[Sample] = []
    for number, batch in enumerate(_read(source, ports, key)):
        if not isinstance(batch, Mapping):
            raise CalibrationError(
                "calibration data has to be dicts of arrays by input name",
                got=type(batch).__name__,
                where=f"{key}, item {number}",
            )
        where = f"{key}, item {number}"
        arrays = _checked(batch, ports, where, more=more)
        _check_sizes(arrays, ports, dims, where)
        found += islice(_split(arrays, ports, where), samples - len(found))
        if len(found) >= samples:
            break
    if not found:
        raise CalibrationError(
            "the data source yields nothing", got=source, expected=f"up to {samples} samples", where=key
        )
    return found


def to_tensors(samples: Iterable[Sample]) -> list[dict[str, Tensor]]:
    import torch

    return [
        {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in sample.items()} for sample in samples
    ]


def digest_of(samples: Iterable[Sample]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all samples, in order."""
    sha = hashlib.sha256()
    for sample in samples:
        for name in sorted(sample):
            array = np.ascontiguousarray(sample[name])
            sha.update(f"{name} {array.dtype} {array.shape}".encode())
            sha.update(array.tobytes())
    return sha.hexdigest()


def _read(source: str, ports: Sequence[Port], key: str) -> Iterator[Any]:
    from edgewright.calibration.files import read_folder, read_stacked
    from edgewright.pipeline.sources import call_user, is_callable_name, load_callable

    path = Path(source)
    if is_callable_name(source):
        yield from call_user(lambda: list(load_callable(source, key)()), source)
    elif path.suffix in (".npz", ".safetensors") and path.is_file():
        yield read_stacked(path)
    elif path.is_dir():
        yield from read_folder(path, ports)
    else:
        expected = "module:function, an .npz or .safetensors file, or a folder of .npy files"
        raise CalibrationError("no such data source", got=source, expected=expected, where=key)


def _checked(batch: Mapping[str, Any], ports: Sequence[Port], where: str, *, more: bool) -> Sample:
    names = [port.name for port in ports]
    unknown, missing = sorted(set(batch) - set(names)), sorted(set(names) - set(batch))
    if missing or (unknown and not more):
        hints = [f"{name!r}: {did_you_mean(name, names)}" for name in unknown]
        raise CalibrationError(
            "the data has other names than the model's inputs",
            got=", ".join(sorted(map(str, batch))),
            expected=", ".join(names),
            where=where,
            do="; ".join(hints) or None,
        )
    arrays = {
        name: np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
        for name, value in batch.items()
    }
    return arrays | {port.name: _fitting(arrays[port.name], port, where) for port in ports}


def _fitting(array: np.ndarray[Any, Any], port: Port, where: str) -> np.ndarray[Any, Any]:
    place = f"{where}, input {port.name!r}"
    fits = array.ndim == len(port.shape) and all(
        isinstance(wanted, str) or wanted == size for wanted, size in zip(port.shape, array.shape, strict=True)
    )
    if not fits:
        raise CalibrationError("wrong shape", got=list(array.shape), expected=list(port.shape), where=place)
    wanted = np.dtype(port.dtype)
    if array.dtype.kind != wanted.kind and not (array.dtype.kind in "iu" and wanted.kind in "iu"):
        raise CalibrationError("wrong dtype", got=array.dtype, expected=wanted, where=place)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = np.argwhere(~np.isfinite(array))[0].tolist()
        raise CalibrationError("the data has NaN or infinite values", got=f"first at {first}", where=place)
    if wanted.kind in "iu" and array.size:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            got = f"{array.min()} to {array.max()}"
            raise CalibrationError(f"values that {wanted} cannot hold", got=got, where=place)
    return array.astype(wanted, copy=False)


def _check_sizes(arrays: Sample, ports: Sequence[Port], dims: tuple[Dim, ...], where: str) -> None:
    """Open sizes are within their bounds; the first dimension counts samples and has none here."""
    first = {port.shape[0] for port in ports if port.shape}
    shapes = OpenShapes.of(ports, tuple(dim for dim in dims if dim.name not in first))
    if shapes.dims:
        try:
            shapes.sizes(arrays)
        except ShapeError as error:
            raise CalibrationError(f"{where}: {error}") from None


def _split(arrays: Sample, ports: Sequence[Port], where: str) -> Iterator[Sample]:
    """Cut along the leading named dimension; inputs without one go with every sample."""
    batched = [port.name for port in ports if port.shape and isinstance(port.shape[0], str)]
    if not batched:
        yield arrays
        return
    rows = {name: len(arrays[name]) for name in batched}
    if len(set(rows.values())) > 1:
        raise CalibrationError("the inputs hold different numbers of samples", got=rows, where=where)
    count, inputs = rows[batched[0]], [port.name for port in ports]
    others = [name for name, array in arrays.items() if name not in inputs and array.ndim and len(array) == count]
    for row in range(count):
        yield {
            name: array[row : row + 1] if name in batched or name in others else array for name, array in arrays.items()
        }
