"""Lower a program to a target: legalize it, collect refusals, write the files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch.fx import Node

from edgewright.errors import LoweringError, TargetError, did_you_mean
from edgewright.pipeline.encoding import DYNAMIC, PALETTES, nearest_scheme
from edgewright.pipeline.passes.graph import aten
from edgewright.pipeline.passes.rounded_rows import rounded_rows
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.passes.stored_integers import stored_weights
from edgewright.pipeline.passes.stored_palettes import stored_palettes
from edgewright.pipeline.program import Program
from edgewright.pipeline.recipe import build_passes
from edgewright.pipeline.shapes import OpenShapes, cases
from edgewright.pipeline.unasked import CONVOLUTIONS, SIGNED_SCALES, Unasked
from edgewright.targets import get_target, require_runtime
from edgewright.targets.base import Artifact, Refusal, Session, Target


def lower(
    program: Program,
    target: str,
    folder: str | Path,
    device: str | None = None,
    *,
    integer_boundary: bool = False,
    minimum: str | None = None,
) -> Artifact:
    """Write a program's files for a target into `folder` (made when missing; never half-written).

    Args:
        device: a device profile; its runtime has to be one of the target's.
        integer_boundary: leave quantized outer inputs and outputs in integers (TFLite); a session still takes and
            gives the model's own dtypes.
        minimum: the oldest runtime that the files have to open in, such as "onnxruntime==1.16" or "iOS==16".
    Raises:
        TargetError: unknown target, missing runtime, or the target refuses the program (all refusals at once).
        DeviceError: unknown device, or one that does not carry the target's runtime.
        LoweringError: the converter failed.
    """
    chosen = get_target(target, minimum)
    require_runtime(chosen)
    if device is not None:
        from edgewright.device_profiles import load_profile
        from edgewright.device_profiles.predict import runtime_of

        runtime_of(load_profile(device), target)
    if integer_boundary:
        refuse_integer_boundary(chosen)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".lowering-") as staging:
        written = write_files(program, chosen, Path(staging), integer_boundary=integer_boundary)
        for path in sorted(Path(staging).iterdir()):
            place = folder / path.name
            if place.is_dir():
                shutil.rmtree(place)
            path.replace(place)
    assert written.files, "a lowering writes at least one file"
    return chosen.find(folder)


def write_files(program: Program, target: Target, folder: Path, *, integer_boundary: bool = False) -> Artifact:
    """Legalize and lower into an empty folder."""
    refuse(
        (
            *open_size_refusals(program.shapes, target),
            *rounding_refusals(program, target),
            *scale_refusals(program, target),
        )
    )
    listed = bool(program.dims) and target.capabilities.open_sizes == "listed"  # it legalizes one graph a size
    legal = program if listed else run_passes(program, target.legalize()).program
    refuse((*target.refusals(legal), *palette_refusals(legal, target), *bfloat_refusals(legal, target)))
    try:
        return target.lower(legal, folder, integer_boundary=integer_boundary)
    except TargetError:
        raise
    except Exception as error:  # a converter can raise anything
        raise LoweringError(
            f"the converter of {target.name} failed",
            got=_innermost(error),
            do="report it with the model's definition, or deliver to another target",
        ) from error


def palette_refusals(program: Program, target: Target) -> list[Refusal]:
    """A refusal where a program has palettized weights and the format no form of them."""
    palettes = [f"p{stored.bits}" for stored in stored_palettes(program)]
    if not palettes or any(scheme in PALETTES for scheme in target.capabilities.schemes):
        return []
    nearest = nearest_scheme(max(palettes), target.capabilities.schemes)
    way_out = f"compress with {nearest!r}, the nearest that it has" if nearest else "leave the target out"
    reason = f"it has no weights that are indices into tables ({', '.join(sorted(set(palettes)))})"
    return [Refusal(target.name, "", "look_up", reason, way_out)]


def bfloat_refusals(program: Program, target: Target) -> list[Refusal]:
    """A refusal where a program has bfloat16 weights and the format none."""
    if "bfloat16" not in program.weight_bytes() or "bf16" in target.capabilities.schemes:
        return []
    nearest = nearest_scheme("bf16", target.capabilities.schemes)
    return [
        Refusal(target.name, "", "bfloat16", "it stores no weights as bfloat16", f"compress with {nearest!r} instead")
    ]


def rounding_refusals(program: Program, target: Target) -> list[Refusal]:
    """A refusal where a program rounds activations with scales found at run time and the format has no such layers."""
    rounded = [found.node for found in rounded_rows(program)]
    if rounded and DYNAMIC not in target.capabilities.schemes:
        nearest = nearest_scheme(DYNAMIC, target.capabilities.schemes)
        reason = f"it has no integer layers with scales found at run time ({DYNAMIC})"
        return [Refusal(target.name, rounded[0].name, "round_rows", reason, f"compress with {nearest!r} instead")]
    layers = [layer for node in rounded for layer in node.users if layer.target is not aten.linear.default]
    return _setting_refusals(target, CONVOLUTIONS, layers)


def scale_refusals(program: Program, target: Target) -> list[Refusal]:
    """A refusal where weights have scales below 0 and the target's runtime has no kernels for them."""
    signed = [stored.node for stored in stored_weights(program) if bool((stored.scales < 0).any())]
    return _setting_refusals(target, SIGNED_SCALES, signed)


def _setting_refusals(target: Target, unasked: Unasked, made: Sequence[Node]) -> list[Refusal]:
    """A refusal where a program has what steps make with a setting, and the target's runtime has no kernels for it."""
    if not made or unasked.taken_by(target.capabilities):
        return []
    reason = f"it has no kernels for {unasked.lacks} (there are {len(made)})"
    way_out = f"compress with {unasked.setting} = false for this target"
    return [Refusal(target.name, made[0].name, str(made[0].target), reason, way_out)]


def open_size_refusals(shapes: OpenShapes, target: Target) -> list[Refusal]:
    """The open dimensions that a target has no form of, with the inputs where they stand."""
    kind = target.capabilities.open_sizes
    refused = [dim for dim in shapes.dims if kind == "none" or (kind == "listed" and not dim.sizes)]
    if kind == "listed":
        reason, way_out = "it has one graph a size", "list the sizes that it shall have: sizes = [{min}, {max}]"
    else:
        reason, way_out = "it takes fixed shapes only", "capture with this dimension fixed, one program a size"
    return [
        Refusal(target.name, name, f"axis {axis}, {dim.name!r}", reason, way_out.format(min=dim.min, max=dim.max))
        for dim in refused
        for name, shape in shapes.inputs.items()
        for axis, size in enumerate(shape)
        if size == dim.name
    ]


def at_listed_sizes(program: Program, target: Target) -> dict[str, Program]:
    """The program at each combination of its listed sizes, cleaned anew and legalized, by a name of these sizes.

    The largest is first: it is what tools show that look at one graph only.
    """
    steps = (*build_passes(()), *target.legalize())
    return {
        "_".join(f"{name}_{size}" for name, size in sizes.items()): run_passes(program.at(sizes), steps).program
        for sizes in reversed(cases(program.dims))
    }


def _innermost(error: BaseException) -> str:
    """What went wrong first: exporters wrap it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".strip().split("\n")[0]


def refuse(refusals: Sequence[Refusal]) -> None:
    """Raise one TargetError with all refusals, if there are any."""
    if not refusals:
        return
    lines = "".join(
        f"\n    {refusal.node or 'the model'} ({refusal.op or 'whole'}): {refusal.reason}; {refusal.way_out}"
        + (f" [{refusal.source}]" if refusal.source else "")
        for refusal in refusals
    )
    error = TargetError(f"{refusals[0].target} refuses the model in {len(refusals)} place(s)", got=lines)
    error.refusals = tuple(refusals)
    raise error


def refuse_schemes(target: Target, schemes: Sequence[str]) -> None:
    """Raise TargetError when a target has no native form of a scheme."""
    schemes_there = target.capabilities.schemes
    missing = [scheme for scheme in schemes if scheme not in schemes_there]
    if missing:
        nearest = nearest_scheme(missing[0], schemes_there)
        raise TargetError(
            f"{target.name} has no native form of {', '.join(missing)}",
            expected=f"{nearest!r}, the nearest that it has" if nearest else did_you_mean(missing[0], schemes_there),
            do="choose such a scheme, or leave the target out",
        )


def refuse_integer_boundary(target: Target) -> None:
    """Raise TargetError when a target's files always have the model's own dtypes outside."""
    if not target.capabilities.integer_boundary:
        raise TargetError(
            f"{target.name} files have the model's own dtypes at their inputs and outputs",
            got="integer_boundary = true",
            do="leave it out, or deliver to tflite",
        )


def open_artifact(artifact: Artifact, threads: int = 1) -> Session:
    """Open an artifact in its runtime on this machine: `run(inputs)` takes and gives arrays by name."""
    target = get_target(artifact.target)
    require_runtime(target)
    return target.open(artifact, threads)
