"""Load a model from a Hugging Face folder: config.json and safetensors, no remote code, no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright.errors import CaptureError, CheckpointError, TargetError

if TYPE_CHECKING:
    from torch import nn


def load_folder(folder: Path) -> nn.Module:
    """Build the architecture that config.json names and load its weights strictly.

    Raises:
        CaptureError: no such folder, no config.json, or one that asks for code of its own.
        CheckpointError: no safetensors, or keys that do not fit.
        TargetError: transformers is not installed.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise CaptureError(
            "not a model that edgewright can load",
            got=folder,
            expected="a callable module:function, a .pt2 file, or a Hugging Face folder with config.json",
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CaptureError("config.json is not JSON", got=error, where=config_file) from None
    if not isinstance(config, dict):
        raise CaptureError("config.json is no JSON object", got=type(config).__name__, where=config_file)
    suspicious = sorted({"auto_map", "custom_pipelines", "_attn_implementation_internal"} & set(config))
    code = sorted(path.name for path in folder.glob("*.py"))
    if suspicious or code:
        raise CaptureError(
            "refused: the folder asks for code of its own to be run",
            got=", ".join([*suspicious, *code]),
            where=folder,
            do="use an architecture that transformers ships, or pass a callable of yours that builds the model",
        )
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError("the folder holds no .safetensors file", where=folder, do="save_pretrained() writes one")
    return _load(folder, config)


def _load(folder: Path, config: dict[str, object]) -> nn.Module:
    try:
        import transformers
    except ImportError:
        raise TargetError(
            "a Hugging Face folder needs transformers", do="pip install 'edgewright[huggingface]'"
        ) from None
    names = config.get("architectures") or []
    name = str(names[0]) if isinstance(names, list) and names else ""
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise CaptureError(
            "transformers has no such architecture", got=name or "none named", where=folder / "config.json"
        )
    architecture: Any = kind
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, loading = architecture.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
        )
    except Exception as error:  # damaged weights and impossible configurations fail in the library's own ways
        raise CheckpointError("the folder cannot be loaded", got=str(error).split("\n")[0], where=folder) from error
    faults = {
        key: sorted(map(str, loading.get(key) or ())) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if any(faults.values()):
        lists = "".join(f"\n    {key}: {', '.join(value)}" for key, value in faults.items() if value)
        raise CheckpointError("the weights do not fit the architecture", got=lists, where=folder)
    model.config.return_dict = True
    module: nn.Module = model.eval()
    return module
