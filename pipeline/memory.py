"""Keep what a large program is made of out of the process's own memory."""

from __future__ import annotations

import ctypes
import sys
import tempfile

import torch
from torch import Tensor

from edgewright.pipeline.program import tensor_bytes

LARGE_BYTES = 1 << 18  # smaller tensors stay: each file takes a mapping, and what was given back has to be asked for


def spilled(tensor: Tensor) -> Tensor:
    """The same values, where they are many, in a file without a name that is mapped: read when they are used, and
    the system may drop them again.

    Raises:
        OSError: the folder of temporary files is full.
    """
    values = tensor.detach().contiguous()
    if values.nbytes < LARGE_BYTES:
        return values
    with tempfile.NamedTemporaryFile(prefix="edgewright-") as file:
        file.write(tensor_bytes(values))
        file.flush()
        mapped = torch.from_file(file.name, shared=False, size=values.nbytes, dtype=torch.uint8)
    return mapped.view(values.dtype).reshape(values.shape)


def give_back_freed(used: int) -> None:
    """Give the system what was freed: glibc keeps blocks of megabytes, and their pieces, for requests to come.

    Args:
        used: bytes of what is at work; where these are few, nothing is done.
    """
    if sys.platform == "linux" and used >= LARGE_BYTES:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none, and keep less
        if trim is not None:
            trim(0)
