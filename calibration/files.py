"""Read calibration arrays from files. Pickled content is never loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewright.errors import CalibrationError

if TYPE_CHECKING:
    from edgewright.calibration.batches import Port, Sample

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})


def read_stacked(path: Path) -> Sample:
    """All arrays of an .npz or .safetensors file, samples stacked along the first axis."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                return {name: content[name] for name in content.files}
        from safetensors.numpy import load_file

        return dict(load_file(str(path)))
    except Exception as error:
        raise CalibrationError(
            "the data file cannot be read", got=f"{type(error).__name__}: {error}", where=path
        ) from error


def read_folder(folder: Path, ports: Sequence[Port]) -> Iterator[Sample]:
    """One sample a file, in the order of the names: .npy arrays or images of the model's only input."""
    if len(ports) != 1:
        raise CalibrationError(
            "a folder can feed a model with one input",
            got=f"{len(ports)} inputs",
            where=folder,
            do="write an .npz with one array an input, or name a callable",
        )
    port = ports[0]
    for file in sorted(folder.iterdir()):
        if file.suffix == ".npy":
            yield {port.name: _with_batch(_read_npy(file), port)}
        elif file.suffix.lower() in IMAGES:
            yield {port.name: _read_image(file, port)}


def _read_npy(file: Path) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise CalibrationError("the file is truncated or no plain .npy", got=error, where=file) from error
    return array


def _with_batch(array: np.ndarray[Any, Any], port: Port) -> np.ndarray[Any, Any]:
    return array[None] if array.ndim == len(port.shape) - 1 else array


def _read_image(file: Path, port: Port) -> np.ndarray[Any, Any]:
    """Decode, resize to the input's height and width, scale to [0, 1], normalize, and lay out as declared."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise CalibrationError("images need Pillow", where=file, do="pip install pillow") from None
    settings = getattr(port, "preprocess", None)
    layout = (settings.layout if settings else None) or "NCHW"
    sizes = dict(zip(layout, port.shape, strict=False))
    height, width, channels = (sizes.get(axis) for axis in "HWC")
    if not isinstance(height, int) or not isinstance(width, int) or channels not in (1, 3):
        raise CalibrationError(
            "an image input has fixed height and width and 1 or 3 channels", got=port.shape, where=file
        )
    try:
        with Image.open(file) as opened:
            image = opened.convert("L" if channels == 1 else "RGB").resize((width, height))
    except (UnidentifiedImageError, OSError) as error:
        raise CalibrationError("the image cannot be decoded", got=error, where=file) from error
    pixels = np.asarray(image, dtype=np.float32).reshape(height, width, channels) / 255.0
    if settings and settings.color == "BGR":
        pixels = pixels[:, :, ::-1]
    if settings and settings.mean:
        pixels = (pixels - np.float32(settings.mean)) / np.float32(settings.std or 1.0)
    return np.ascontiguousarray((pixels if layout == "NHWC" else pixels.transpose(2, 0, 1))[None], dtype=np.float32)
