"""Run passes in order on a clone, verify the graph after each, and hold each pass to its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from edgewright.errors import EdgewrightError, PassError, RecipeError
from edgewright.pipeline.passes.base import Context, Pass, PassReport
from edgewright.pipeline.passes.layer_weights import layer_weights
from edgewright.pipeline.program import Program, TensorSpec


@dataclass(frozen=True)
class Ran:
    """A pass that ran, with its report."""

    step: Pass
    report: PassReport


@dataclass(frozen=True)
class Compressed:
    """What a run of passes gave.

    Args:
        reports: of every pass, in order.
        floats: by layer, the weight that it had before a pass rounded it.
    """

    program: Program
    reports: tuple[Ran, ...] = ()
    floats: Mapping[str, Tensor] = field(default_factory=dict)


def check_order(passes: Sequence[Pass]) -> None:
    """Raise RecipeError with every pass that stands before one that it must run after."""
    names = [step.name for step in passes]
    wrong = [
        f"{step.name} (place {place + 1}) has to run after {earlier}"
        for place, step in enumerate(passes)
        for earlier in step.runs_after
        if earlier in names[place + 1 :] and earlier not in names[:place]
    ]
    if wrong:
        raise RecipeError(
            "the passes of the recipe are in an impossible order",
            got=", ".join(names),
            expected="; ".join(wrong),
            do="move the named passes",
        )


def run_passes(
    program: Program,
    passes: Sequence[Pass],
    context: Context | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Compressed:
    """Apply `passes` to a clone of `program`; the caller's is never touched.

    Raises:
        RecipeError: the order is impossible (all violations at once).
        PassError: a pass failed, left an invalid graph, changed the signature, or did not do what it reported.
    """
    check_order(passes)
    context = context or Context()
    work = program.clone()
    work.erase_dead()  # what is dead already is no pass's doing
    ran: list[Ran] = []
    floats: dict[str, Tensor] = {}
    context.forget()
    for step in passes:
        progress(step.name)
        before = _text(work)
        weights = {found.layer.name: work.tensor(found.constant) for found in layer_weights(work)}
        try:
            report = step.run(work, context)
            changed = _text(work) != before
            if changed or report.rewrites:
                work.erase_dead()
                changed = _text(work) != before
            if changed or report.rewrites:  # what was left alone was verified before
                _verify(work, step)
                if not getattr(step, "keeps_values", False):
                    context.forget()
        except EdgewrightError:
            raise
        except Exception as error:
            done = ", ".join(past.step.name for past in ran) or "none"
            raise PassError(
                f"the pass {step.name} failed",
                got=f"{type(error).__name__}: {error}".split("\n")[0],
                where=f"{step!r}, after: {done}",
                do="report it with the model's definition; leave the pass out to go on",
            ) from error
        if changed and report.rewrites == 0:
            raise PassError(
                f"the pass {step.name} said that it rewrote nothing but changed the graph", where=repr(step)
            )
        ran.append(Ran(step, report))
        if changed:
            still = {found.layer.name for found in layer_weights(work)}
            floats |= {name: weight for name, weight in weights.items() if name not in still}
    return Compressed(work, tuple(ran), floats)


def _text(program: Program) -> list[str]:
    """What a pass can change in a graph, node by node."""
    return [f"{node.name} = {node.op} {node.target} {node.args} {node.kwargs}" for node in program.graph.nodes]


def _verify(program: Program, step: Pass) -> None:
    """Lint the graph, propagate shapes and dtypes through all of it, and compare the outputs with the signature."""
    program.graph.lint()
    results, symbols = program.propagate(), program.symbols()
    names = [spec.name for spec in program.outputs] + ["?"] * len(results)
    found = tuple(TensorSpec.of(name, tensor, symbols) for name, tensor in zip(names, results, strict=False))
    if found != program.outputs:
        raise PassError(
            f"the pass {step.name} changed the outputs", got=found, expected=program.outputs, where=repr(step)
        )
