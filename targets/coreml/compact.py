"""Make a Core ML program small: every scale, dtype and flag of every operation is a constant of its own."""

from __future__ import annotations

from typing import Any


def share_constants(spec: Any) -> None:
    """Let equal small constants of a program be one, in place. What refers to a copy then refers to the first.

    Constants in the weight file are left alone; outputs of a function keep their names.
    """
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            kept = _equal_constants(block)
            _rename(block, kept)
            shared = [operation for operation in block.operations if not _is_copy(operation, kept)]
            del block.operations[:]
            block.operations.extend(shared)


def _equal_constants(block: Any) -> dict[str, str]:
    """Name of a copy -> name of the first constant with the same type and value."""
    first: dict[bytes, str] = {}
    kept: dict[str, str] = {}
    for operation in block.operations:
        value = operation.attributes["val"] if operation.type == "const" else None
        if value is None or not value.HasField("immediateValue"):
            continue
        name = operation.outputs[0].name
        key = value.SerializeToString(deterministic=True) + operation.outputs[0].type.SerializeToString(
            deterministic=True
        )
        original = first.setdefault(key, name)
        if original != name and name not in block.outputs:
            kept[name] = original
    return kept


def _is_copy(operation: Any, kept: dict[str, str]) -> bool:
    return operation.type == "const" and operation.outputs[0].name in kept


def _rename(block: Any, kept: dict[str, str]) -> None:
    for operation in block.operations:
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name" and binding.name in kept:
                    binding.name = kept[binding.name]
        for nested in operation.blocks:
            _rename(nested, kept)
