"""Run one sample on one target, and say how it ended."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.ops_samples import Case, module_of
from edgewright.errors import CaptureError, EdgewrightError, TargetError

VERIFIED, REFUSED, FAILED, WRONG, CRASHED = "verified", "refused", "failed", "wrong", "crashed"
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # of a value; of the output's root mean square
LEAST = 1.2e-7  # float32's epsilon: what a bounded function (sigmoid) is off by near 0, if that is below STEEP
STEEP = 1e-3  # of a value that the last bit of the inputs changes by as much (tan at its poles)


@dataclass(frozen=True)
class Outcome:
    """How a cell ended, with the reason (of a refusal: node, operation, reason and way out)."""

    status: str
    reason: str = ""


def run_case(case: Case, target: str) -> Outcome:
    """Capture, clean, lower, run and compare one sample."""

    from edgewright.pipeline.capture import capture
    from edgewright.pipeline.compress import compress
    from edgewright.pipeline.lowering import write_files
    from edgewright.targets import get_target

    module = module_of(case)
    inputs = module.inputs()
    expected, beside = _run(module, inputs), _run(module, [_next(tensor) for tensor in inputs])
    try:
        program = compress(capture(module, inputs), []).program
        feed = {spec.name: tensor.numpy() for spec, tensor in zip(program.inputs, inputs, strict=True)}
        with tempfile.TemporaryDirectory() as folder:
            artifact = write_files(program, get_target(target), Path(folder))
            with get_target(target).open(artifact) as session:
                results = session.run(feed)
    except EdgewrightError as error:
        return classify_error(error)
    except Exception as error:  # noqa: BLE001  (a runtime can raise anything)
        return Outcome(FAILED, _first_line(error))
    return compare(expected, [results[spec.name] for spec in program.outputs], beside)


def _run(module: Any, inputs: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    import torch

    with torch.no_grad():
        returned = module(*(tensor.clone() for tensor in inputs))
    return [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(returned) if isinstance(leaf, torch.Tensor)]


def _next(tensor: Any) -> Any:
    """Floats larger by one bit."""
    import torch

    return torch.nextafter(tensor, torch.full_like(tensor, torch.inf)) if tensor.is_floating_point() else tensor


def classify_error(error: EdgewrightError) -> Outcome:
    """A refusal names node, operation, reason and way out; all else that stops a model is a failure."""
    if isinstance(error, CaptureError):
        return Outcome(REFUSED, f"capture: {error}")
    refusals = error.refusals if isinstance(error, TargetError) else ()
    if refusals and all(part for one in refusals for part in (one.node, one.op, one.reason, one.way_out)):
        return Outcome(REFUSED, f"{refusals[0].op}: {refusals[0].reason}; {refusals[0].way_out}")
    return Outcome(FAILED, " ".join(str(error).split()))


def compare(
    expected: Sequence[np.ndarray[Any, Any]],
    found: Sequence[np.ndarray[Any, Any]],
    beside: Sequence[np.ndarray[Any, Any]] | None = None,
) -> Outcome:
    """Integers and booleans have to be equal; floats close, NaN and infinities where PyTorch has them.

    `beside` is what PyTorch computes from inputs that are larger by one bit.
    """
    if len(expected) != len(found):
        return Outcome(WRONG, f"{len(found)} outputs, expected {len(expected)}")
    for place, (right, got, near) in enumerate(zip(expected, found, beside or expected, strict=True)):
        fault = _fault(right, np.asarray(got), near)
        if fault:
            return Outcome(WRONG, f"output {place}: {fault}")
    return Outcome(VERIFIED)


def _fault(right: np.ndarray[Any, Any], got: np.ndarray[Any, Any], near: np.ndarray[Any, Any]) -> str:
    if right.shape != got.shape or right.dtype != got.dtype:
        return f"{got.dtype} {got.shape}, expected {right.dtype} {right.shape}"
    if right.dtype.kind not in "fc":
        bad = right != got
    else:
        finite = np.isfinite(right)
        size = float(np.sqrt(np.mean(np.abs(right[finite]) ** 2))) if finite.any() else 0.0
        bad = ~np.isclose(got, right, rtol=RELATIVE, atol=ABSOLUTE * size, equal_nan=True)
        bad &= ~(np.isclose(got, right, rtol=0, atol=LEAST) & np.isclose(got, right, rtol=STEEP, atol=0))
        if near.shape == right.shape:
            with np.errstate(invalid="ignore"):  # infinities
                steep = np.abs(near - right) >= RELATIVE * np.abs(right)
            bad &= ~(steep & np.isclose(got, right, rtol=STEEP, atol=0))
    if not bad.any():
        return ""
    where = tuple(int(index) for index in np.argwhere(bad)[0])
    return f"{int(bad.sum())} of {bad.size} values, first at {where}: {got[where]}, expected {right[where]}"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().split("\n")[0]
