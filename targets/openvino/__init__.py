"""OpenVINO intermediate representation, made from the same ONNX form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgewright.targets.base import Artifact, Capabilities, Inspection, Level, PinnedRuntime, Refusal, Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from edgewright.pipeline.passes.base import Pass
    from edgewright.pipeline.program import Program
    from edgewright.targets.timing import OperationTime

XML, WEIGHTS = "model.xml", "model.bin"
FOR_ONNX_RUNTIME = ("gather-rows", "spell-out-weights")  # of the ONNX form: OpenVINO has kernels for what they avoid
SCHEMES = frozenset({"fp32", "fp16", "bf16", "w8a8", "w4a8", "w8a8-dynamic", "w8", "w4", "w4g32", "w4g64", "w4g128"})
LEVELS = tuple(  # looked up in these releases, installed side by side
    Level({"openvino": version}, {"ir": 11, "opset": opset}, SCHEMES | ({"w2g32"} if opset >= 17 else set()))
    for version, opset in (("2023.3", 13), ("2024.0", 14), ("2024.3", 15), ("2025.0", 16), ("2026.4", 17))
)
DEFAULT = LEVELS[1]
WITH_NARROW_MASKS = LEVELS[2]  # the first whose attention broadcasts its mask: 2024.1 does not, 2024.3 does
CAPABILITIES = Capabilities(
    schemes=LEVELS[-1].schemes,
    minimum=DEFAULT.minimum,
    tolerance_db=80.0,
    runtimes=(PinnedRuntime("openvino", "openvino", Path(__file__).with_name("run.py"), "0", counts_as="openvino"),),
    levels=LEVELS,
    signed_scales=True,
    open_sizes="range",
)


class OpenvinoTarget:
    """IR (.xml and .bin) for OpenVINO's runtime, computed in float32 where it is not integer."""

    name: ClassVar[str] = "openvino"
    extra: ClassVar[str] = "openvino"
    suffix: ClassVar[str] = ".xml"
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "openvino")

    def __init__(self, level: Level | None = None) -> None:
        self.level = level
        self.capabilities = CAPABILITIES.at(level)

    def legalize(self) -> tuple[Pass, ...]:
        from edgewright.targets.onnx import OnnxTarget

        return tuple(step for step in OnnxTarget().legalize() if step.name not in FOR_ONNX_RUNTIME)

    def refusals(self, program: Program) -> tuple[Refusal, ...]:
        from edgewright.targets.onnx import OnnxTarget
        from edgewright.targets.unsupported import TABLE, refuse_nodes

        return refuse_nodes(program, self.name, TABLE) or OnnxTarget().refusals(program)

    def preload(self) -> None:
        from edgewright.targets.onnx import OnnxTarget

        OnnxTarget().preload()

    def lower(self, program: Program, folder: Path, *, integer_boundary: bool = False) -> Artifact:
        from edgewright.targets.openvino.lower import write_ir
        from edgewright.targets.openvino.versions import refuse_newer

        old = self.level is not None and LEVELS.index(self.level) < LEVELS.index(WITH_NARROW_MASKS)
        write_ir(program, folder / XML, whole_masks=old)
        if self.level is not None:
            refuse_newer(folder / XML, self.level, LEVELS)
        return self.find(folder)

    def find(self, folder: Path) -> Artifact:
        return Artifact(self.name, folder / XML, (folder / XML, folder / WEIGHTS))

    def inspect(self, artifact: Artifact) -> Inspection:
        from edgewright.targets.openvino.fix_sizes import at_largest
        from edgewright.targets.openvino.inspect import inspect_ir
        from edgewright.targets.openvino.versions import needed_level

        promised = min(LEVELS.index(DEFAULT), LEVELS.index(self.level or DEFAULT))
        needed = LEVELS.index(needed_level(artifact.main, LEVELS))
        with at_largest(artifact.main) as main:
            found = inspect_ir(main)
        return replace(found, minimum=LEVELS[max(promised, needed)].minimum)

    def open(self, artifact: Artifact, threads: int = 1) -> Session:
        from edgewright.targets.openvino.compact import recorded_shapes
        from edgewright.targets.openvino.run import OpenvinoSession
        from edgewright.targets.sized import with_sizes

        return with_sizes(OpenvinoSession(artifact.main, threads), recorded_shapes(artifact.main))

    def profile(
        self, artifact: Artifact, inputs: Mapping[str, np.ndarray[Any, Any]], threads: int = 1
    ) -> tuple[OperationTime, ...]:
        from edgewright.targets.openvino.profile import profile_ir

        return profile_ir(artifact.main, inputs, threads)
