"""Find what a release file names: callables, checkpoints, models."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright.errors import CheckpointError, EdgewrightError, ReleaseError, did_you_mean
from edgewright.pipeline.user_code import user_line

if TYPE_CHECKING:
    from torch import Tensor, nn


def add_import_roots(*folders: Path) -> None:
    """Let "module:function" find the user's code from these folders (the working one, and the release file's)."""
    for folder in folders:
        if str(folder.resolve()) not in sys.path:
            sys.path.append(str(folder.resolve()))


def is_callable_name(source: str) -> bool:
    module, colon, function = source.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load_callable(name: str, key: str) -> Callable[..., Any]:
    """Import "module:function".

    Raises:
        ReleaseError: no such module or function; `key` is where the release file names it.
    """
    if not is_callable_name(name):
        raise ReleaseError("a callable is written module:function", got=repr(name), where=key)
    module_name, _, function = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module can fail in any way while it is imported
        place = error.filename and f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else None
        raise ReleaseError(
            f"the module {module_name} cannot be imported",
            got=f"{type(error).__name__}: {error}",
            where=" | ".join(filter(None, [key, place or user_line(error)])),
            do="run from the folder that holds it, or install it" if isinstance(error, ImportError) else None,
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        known = [entry for entry in vars(module) if not entry.startswith("_")]
        raise ReleaseError(
            f"{module_name} has no callable {function!r}", expected=did_you_mean(function, known), where=key
        )
    return found  # type: ignore[no-any-return]


def call_user(function: Callable[..., Any], key: str, *args: object) -> Any:
    """Call the user's function; what it raises becomes an error that names it.

    Raises:
        ReleaseError: the function raised.
    """
    try:
        return function(*args)
    except EdgewrightError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit(0) there would look like our success
        raise ReleaseError(
            f"{key} raised an error", got=f"{type(error).__name__}: {error}", where=user_line(error)
        ) from error


def load_model(source: str, checkpoint: str | None) -> nn.Module:
    """Build the model that a release names, with its checkpoint loaded strictly."""
    from torch import nn

    if is_callable_name(source):
        model = call_user(load_callable(source, "model.source"), source)
        if not isinstance(model, nn.Module):
            raise ReleaseError("model.source has to return a torch.nn.Module", got=type(model).__name__, where=source)
    else:
        from edgewright.pipeline.huggingface import load_folder

        model = load_folder(Path(source))
    if checkpoint is not None:
        load_checkpoint(model, Path(checkpoint))
    return model.eval()


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a .safetensors file, or a .pt file of tensors alone, strictly.

    Raises:
        CheckpointError: the file is missing or damaged; or keys are missing, unexpected or of another shape: all of
            them together.
    """
    state = read_tensors(path)
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(state))
    unexpected = sorted(set(state) - set(wanted))
    shapes = [
        f"{name}: checkpoint {tuple(state[name].shape)}, model {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(state))
        if state[name].shape != wanted[name].shape
    ]
    if missing or unexpected or shapes:
        lists = [("missing", missing), ("unexpected", unexpected), ("other shape", shapes)]
        raise CheckpointError(
            "the checkpoint does not fit the model",
            got="".join(f"\n    {label}: {', '.join(names)}" for label, names in lists if names),
            where=path,
            do=_prefix_hint(missing, unexpected),
        )
    _fill(model, state)


def _fill(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Let the model's tensors be those of the state where that changes nothing else, and copy the others.

    Tensors of a .safetensors file are mapped, not read: a weight takes memory when it is used, and the system can drop
    it again. Tied weights stay tied, and every tensor keeps its dtype.
    """
    wanted = model.state_dict()
    owners: dict[int, int] = {}
    for tensor in wanted.values():
        owners[tensor.untyped_storage().data_ptr()] = owners.get(tensor.untyped_storage().data_ptr(), 0) + 1
    taken = {
        name: state[name]
        for name, tensor in wanted.items()
        if owners[tensor.untyped_storage().data_ptr()] == 1
        and (state[name].dtype, state[name].device) == (tensor.dtype, tensor.device)
    }
    model.load_state_dict({name: tensor for name, tensor in state.items() if name not in taken}, strict=False)
    model.load_state_dict(taken, strict=False, assign=True)


def _prefix_hint(missing: list[str], unexpected: list[str]) -> str:
    for prefix in ("module.", "model.", "_orig_mod."):
        if unexpected and {name.removeprefix(prefix) for name in unexpected} == set(missing):
            return f"every key carries the prefix {prefix!r}: save model.{prefix.rstrip('.')}.state_dict() instead"
    return "save the state_dict of exactly this model"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name from .safetensors, or from a .pt/.pth/.bin file without any code in it."""
    if not path.is_file():
        raise CheckpointError("the checkpoint does not exist", got=path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(str(path)))
        import torch

        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            "the checkpoint cannot be read",
            got=f"{type(error).__name__}: {error}".split("\n")[0],
            where=path,
            do="pass a .safetensors file, or a .pt file with a plain state_dict of tensors",
        ) from error
    import torch

    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        nested = [key for key, value in state.items() if isinstance(value, dict)] if isinstance(state, dict) else []
        raise CheckpointError(
            "the checkpoint is no plain dict of tensors",
            got=f"a dict that holds {', '.join(map(repr, nested))}" if nested else type(state).__name__,
            where=path,
            do="save the model's state_dict() alone",
        )
    return state
