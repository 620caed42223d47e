"""Tensors in a file that is good for one thing alone: what for stands in it, and it is refused for any other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from edgewright.errors import EdgewrightError


@dataclass(frozen=True)
class KeyedFile:
    """One safetensors file.

    Args:
        what: it holds, for messages.
        keys: what it is good for, by name; kept as its metadata.
        other: by the same names, what is to be said where a file has another.
        setting: the release file's key that names it.
        error: what is raised.
    """

    path: Path
    what: str
    keys: Mapping[str, str]
    other: Mapping[str, str]
    setting: str
    error: type[EdgewrightError]

    def read(self) -> dict[str, Tensor]:
        """The tensors by name; empty when there is no such file.

        Raises:
            error: it cannot be read, is good for something else, or has no folder.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.parent.is_dir():
            raise self.error(
                f"the {self.what} cannot be saved: there is no such folder",
                got=self.path.parent,
                do="name a file in a folder that exists",
            )
        if not self.path.exists():
            return {}
        try:
            with safe_open(str(self.path), framework="pt") as file:
                has = file.metadata() or {}
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
        except (OSError, SafetensorError) as error:
            raise self.error(f"the {self.what} cannot be read", got=error, where=self.path) from None
        for key, wanted in self.keys.items():
            if has.get(key) != wanted:
                raise self.error(
                    f"the {self.what} {self.other[key]}",
                    got=has.get(key, f"no {key} in the file"),
                    expected=wanted,
                    where=self.path,
                    do=f"delete the file, and the next run makes it anew; or name another under {self.setting}",
                )
        return found

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the file in place whole, or leave what was there.

        Raises:
            error: the folder is missing or cannot be written.
        """
        from safetensors.torch import save_file

        staged = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            try:
                save_file(dict(tensors), str(staged), metadata=dict(self.keys))
                os.replace(staged, self.path)
            finally:
                staged.unlink(missing_ok=True)
        except OSError as error:
            raise self.error(
                f"the {self.what} cannot be saved",
                got=error,
                where=self.path,
                do="name a file in a folder that exists and can be written",
            ) from None
