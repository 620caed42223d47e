"""Settings that steps get unasked where every target of a release has kernels for what they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgewright.errors import TargetError
from edgewright.pipeline.passes.base import Pass
from edgewright.targets import get_target
from edgewright.targets.base import Capabilities, Target


@dataclass(frozen=True)
class Unasked:
    """Such a setting, true or false.

    Args:
        capability: the field of `Capabilities` that says whether a target takes it; lacks: what others have no kernels
            for.
    """

    setting: str
    capability: str
    lacks: str

    def taken_by(self, capabilities: Capabilities) -> bool:
        return bool(getattr(capabilities, self.capability))


SIGNED_SCALES = Unasked("signed_scales", "signed_scales", "weights with scales below 0")
CONVOLUTIONS = Unasked(
    "convolutions", "dynamic_convolutions", "convolutions of activations that are rounded as they come"
)
UNASKED = (SIGNED_SCALES, CONVOLUTIONS)


def unasked_settings(targets: Iterable[str]) -> dict[str, bool]:
    """What steps with these settings get where a recipe does not say: what every target takes."""
    known = [get_target(name).capabilities for name in targets]
    return {one.setting: all(map(one.taken_by, known)) for one in UNASKED}


def refuse_settings(target: Target, passes: Sequence[Pass]) -> None:
    """Raise TargetError when passes make what a target's runtime has no kernels for."""
    for one in UNASKED:
        wanting = [step.name for step in passes if getattr(step, one.setting, False)]
        if wanting and not one.taken_by(target.capabilities):
            raise TargetError(
                f"{target.name} has no kernels for {one.lacks}",
                got=f"{one.setting} = true in {wanting[0]}",
                do="leave the setting out, or deliver to this target with a release of its own",
            )
