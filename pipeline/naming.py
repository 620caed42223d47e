"""Names of inputs and outputs: where a tensor stands in the nested value that holds it."""

from __future__ import annotations

from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor


def key_name(key: Any) -> str:
    """One step of a path: a dict's key, a field's name, a position."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def output_name(path: tuple[Any, ...]) -> str:
    """Keys of the returned structure, joined; a bare position becomes output_N."""
    keys = [key_name(key) for key in path]
    name = "_".join(keys)
    return f"output_{name or 0}" if not keys or keys[0].isdigit() else name


def named_leaves(result: Any) -> list[tuple[str, Tensor]]:
    """The tensors of what a model returned, with their output names. Outputs that are None are left out."""
    leaves = pytree.tree_flatten_with_path(result)[0]
    return [(output_name(path), leaf) for path, leaf in leaves if isinstance(leaf, Tensor)]
