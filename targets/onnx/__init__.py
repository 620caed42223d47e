"""ONNX, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgewright.targets.base import Artifact, Capabilities, Inspection, Level, PinnedRuntime, Refusal, Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from edgewright.pipeline.passes.base import Pass
    from edgewright.pipeline.program import Program
    from edgewright.targets.timing import OperationTime

FILE = "model.onnx"
PROTOBUF_LIMIT = 2**31
SCHEMES = frozenset({"fp32", "fp16", "bf16", "w8a8", "w8a8-dynamic", "w8"})
BLOCKS = frozenset({"w4", "w4g32", "w4g64", "w4g128"})
LEVELS = (  # ONNX Runtime 1.15 reads opset 19, too, but has no kernel for its DequantizeLinear
    Level({"onnxruntime": "1.15"}, {"opset": 18, "ir": 8}, SCHEMES),
    Level({"onnxruntime": "1.16"}, {"opset": 19, "ir": 9}, SCHEMES),
    Level({"onnxruntime": "1.17"}, {"opset": 20, "ir": 9}, SCHEMES),
    Level({"onnxruntime": "1.20"}, {"opset": 21, "ir": 10}, SCHEMES | BLOCKS),
    Level({"onnxruntime": "1.23"}, {"opset": 21, "ir": 10}, SCHEMES | BLOCKS | {"w4a8"}),  # casts 4-bit integers
    Level({"onnxruntime": "1.24"}, {"opset": 25, "ir": 13}, SCHEMES | BLOCKS | {"w4a8", "w2g32"}),
)
DEFAULT = LEVELS[2]
CAPABILITIES = Capabilities(
    schemes=LEVELS[-1].schemes,
    minimum=DEFAULT.minimum,
    tolerance_db=80.0,
    runtimes=(
        PinnedRuntime(
            "onnxruntime", "onnxruntime", Path(__file__).with_name("run.py"), "1.19", counts_as="onnxruntime"
        ),
    ),
    levels=LEVELS,
    signed_scales=True,
    open_sizes="range",
)


class OnnxTarget:
    """ONNX files with explicit quantization (QuantizeLinear/DequantizeLinear), unsigned 8-bit activations."""

    name: ClassVar[str] = "onnx"
    extra: ClassVar[str] = "onnx"
    suffix: ClassVar[str] = ".onnx"
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")

    def __init__(self, level: Level | None = None) -> None:
        self.named, self.level = level, level or DEFAULT
        self.capabilities = CAPABILITIES.at(level)

    def legalize(self) -> tuple[Pass, ...]:
        from edgewright.pipeline.passes.absorb_activations import AbsorbActivations
        from edgewright.pipeline.passes.decompose_operators import DecomposeOperators
        from edgewright.pipeline.passes.fold_constants import FoldConstants
        from edgewright.pipeline.passes.gather_rows import GatherRows
        from edgewright.pipeline.passes.look_up_integers import LookUpIntegers
        from edgewright.pipeline.passes.normalize_rows import NormalizeRows
        from edgewright.pipeline.passes.shift_activations import ShiftActivations
        from edgewright.pipeline.passes.spell_out_weights import SpellOutWeights
        from edgewright.targets.onnx.rules import RULES

        return (
            DecomposeOperators(RULES),
            FoldConstants(),
            LookUpIntegers(),
            AbsorbActivations(),
            NormalizeRows(),
            ShiftActivations(),
            GatherRows(),
            SpellOutWeights(),
        )

    def refusals(self, program: Program) -> tuple[Refusal, ...]:
        from edgewright.targets.levels import too_old_for_few_bits
        from edgewright.targets.unsupported import ONNX, refuse_nodes

        total = sum(program.weight_bytes().values())
        if total < PROTOBUF_LIMIT:
            old = too_old_for_few_bits(program, self.name, self.named, LEVELS)
            return (*refuse_nodes(program, self.name, ONNX), *old)
        way_out = "compress the weights further, or export the model in parts"
        return (Refusal(self.name, "", "", f"{total} bytes of weights exceed protobuf's 2 GiB", way_out),)

    def preload(self) -> None:
        import onnxscript.function_libs.torch_lib.ops  # noqa: F401
        import torch.onnx  # noqa: F401

    def lower(self, program: Program, folder: Path, *, integer_boundary: bool = False) -> Artifact:
        from edgewright.targets.onnx.blocks import opset_for
        from edgewright.targets.onnx.lower import write_onnx

        wanted = min(self.level.format["opset"], DEFAULT.format["opset"])
        write_onnx(program, folder / FILE, opset=opset_for(program, wanted))
        return self.find(folder)

    def find(self, folder: Path) -> Artifact:
        return Artifact(self.name, folder / FILE, (folder / FILE,))

    def inspect(self, artifact: Artifact) -> Inspection:
        from edgewright.targets.levels import with_minimum
        from edgewright.targets.onnx.blocks import casts_narrow_weights
        from edgewright.targets.onnx.fix_sizes import at_largest
        from edgewright.targets.onnx.inspect import inspect_onnx

        with at_largest(artifact.main) as main:
            found = inspect_onnx(main)
        narrow = casts_narrow_weights(artifact.main)
        able = tuple(level for level in LEVELS if "w4a8" in level.schemes) if narrow else LEVELS
        return with_minimum(found, able, "opset", "opset")

    def open(self, artifact: Artifact, threads: int = 1) -> Session:
        from edgewright.pipeline.shapes import SHAPES
        from edgewright.targets.onnx.run import OnnxSession
        from edgewright.targets.sized import with_sizes

        session = OnnxSession(artifact.main, threads)
        return with_sizes(session, session.metadata.get(SHAPES))

    def profile(
        self, artifact: Artifact, inputs: Mapping[str, np.ndarray[Any, Any]], threads: int = 1
    ) -> tuple[OperationTime, ...]:
        from edgewright.targets.onnx.profile import profile_onnx

        return profile_onnx(artifact.main, inputs, threads)
