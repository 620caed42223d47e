"""From an .mlpackage on disk to coremltools' MIL, with all that the interpreter refuses named at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewright.errors import TargetError
from edgewright.targets.coreml.reference.registry import KERNELS, LIMITS, REFUSED

OPSETS = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18}
"""Of a function, to the iOS version whose definitions of the operations hold."""


@dataclass(frozen=True)
class Loaded:
    """The default function of a package as coremltools' MIL, and its opset."""

    function: Any
    opset: int


def load_function(mlpackage: Path) -> Loaded:
    """Read a package.

    Raises:
        TargetError: it is no ML program, or holds operations that the interpreter refuses: every one is
        named.
    """
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    if not mlpackage.is_dir():
        raise TargetError("there is no .mlpackage", got=mlpackage, do="name a folder that ends in .mlpackage")
    model = coremltools.models.MLModel(str(mlpackage), skip_model_load=True)
    spec = model.get_spec()
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise TargetError(
            "the Core ML reference interpreter runs ML programs only",
            got=kind,
            expected="mlProgram",
            where=mlpackage,
        )
    name = spec.description.defaultFunctionName or "main"
    _refuse(_unknown(spec.mlProgram), mlpackage)
    try:
        program = load(spec, spec.specificationVersion, model.weights_dir or "")
    except (AssertionError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise TargetError(f"coremltools cannot read the package back: {error}", where=mlpackage) from error
    function = program.functions[name]
    _refuse(_out_of_limits(function), mlpackage)
    return Loaded(function, OPSETS[spec.mlProgram.functions[name].opset])


def _refuse(reasons: list[str], mlpackage: Path) -> None:
    if reasons:
        listed = "\n  ".join(reasons)
        raise TargetError(
            f"the Core ML reference interpreter does not run this package:\n  {listed}",
            where=mlpackage,
            do="lower the model to other operations, or verify it on a Mac",
        )


def _unknown(program: Any) -> list[str]:
    """What the file names and the table does not hold, with how often, before coremltools sees it."""
    counts: dict[str, int] = {}
    for function in program.functions.values():
        if function.opset not in OPSETS:
            return [f"opset {function.opset}: known are {', '.join(OPSETS)}"]
        for op in _operations(function.block_specializations[function.opset]):
            if op not in KERNELS and op not in ("const", "write_state"):
                counts[op] = counts.get(op, 0) + 1
    return [
        f"{op} ({count}): {REFUSED.get(op, 'an operation that it does not know')}"
        for op, count in sorted(counts.items())
    ]


def _operations(block: Any) -> Iterator[str]:
    for op in block.operations:
        yield op.type
        for nested in op.blocks:
            yield from _operations(nested)


def _out_of_limits(block: Any) -> list[str]:
    """What operations state that their functions do not handle."""
    reasons = []
    for op in block.operations:
        found = [reason for check in LIMITS.get(op.op_type, ()) if (reason := check(op)) is not None]
        reasons += [f"{op.op_type} {op.name!r}: {reason}" for reason in found]
        for nested in op.blocks:
            reasons += _out_of_limits(nested)
    return reasons
