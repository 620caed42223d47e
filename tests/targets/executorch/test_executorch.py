"""What is ExecuTorch's own: layers that XNNPACK leaves, refusals by name, constants and names inside of the file."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.errors import TargetError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.low_precision import low_precision_share, node_macs
from edgewright.pipeline.lowering import lower
from edgewright.pipeline.metrics import sqnr_by_output
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.convert_floats import ConvertFloats
from edgewright.pipeline.passes.quantize_static import QuantizeStatic
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.program import Program
from edgewright.targets import TARGETS, get_target
from edgewright.targets.base import Inspection
from tests.small_models import PREPARE, SMALL, folded, quantized

pytestmark = [
    pytest.mark.slow,  # the compiler takes 7 s to import, a lowering 2 s and more
    pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="executorch is not installed"),
]
ROOT = Path(__file__).resolve().parents[3]


class Unbatched(nn.Module):
    """A convolution of one image without a batch axis: XNNPACK does not see the quantized form behind the unsqueeze."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return F.relu(self.conv(image))


class Mixed(nn.Module):
    """What XNNPACK takes in other forms than the captured one: relu6, depthwise, a product with a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.depthwise = nn.Conv2d(2, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.weight = nn.Parameter(torch.randn(16, 4))

    def forward(self, image: Tensor) -> Tensor:
        y = F.hardtanh(self.depthwise(F.relu6(self.enter(image))), 0.0, 6.0)
        larger = F.interpolate(y, scale_factor=2.0, mode="nearest")
        return larger.mean((2, 3)) @ self.weight


class Attention(nn.Module):
    """Products of two activations, and little else."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.query(x) @ self.key(x).transpose(1, 2)


class Sorted(nn.Module):
    """An operation that the runtime has no kernel for, twice."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sort(dim=1).values + x.sort(dim=1, descending=True).values


class Twice(nn.Module):
    """One layer used twice, with an operation between them that no delegate takes: two delegates, one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        again: Tensor = self.dense(torch.erf(self.dense(x)))
        return again


class Sliced(nn.Module):
    """A layer whose weight is the later part of a larger one, as attention pooling has its keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(12, 8)), nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight[4:], self.bias[4:])


def program_of(kind: type[nn.Module], *shape: int, scheme: str = "w8a8") -> tuple[Program, list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = kind().eval()
    (name,) = inspect.signature(model.forward).parameters
    batches = [{name: torch.rand(shape, generator=generator) * 4 - 2} for _ in range(8)]
    program = run_passes(capture(model, batches[0]), PREPARE).program
    if scheme == "w8a8":
        program = run_passes(program, [QuantizeStatic()], Context(batches=batches)).program
    return program, batches


def run_file(program: Program, batches: list[dict[str, Tensor]], folder: Path) -> tuple[dict[str, float], Inspection]:
    """SQNR of the file against the graph, by output, and what is in the file."""
    target = get_target("executorch")
    artifact = lower(program, "executorch", folder)
    with target.open(artifact) as session:
        found = [session.run({key: value.numpy() for key, value in batch.items()}) for batch in batches]
    expected = [{key: value.numpy() for key, value in program.run(batch).items()} for batch in batches]
    return sqnr_by_output(expected, found), target.inspect(artifact)


def test_no_line_of_ours_names_it() -> None:
    """It is found through its entry point alone: the proof that a target is a plug-in."""
    assert "executorch" not in TARGETS
    sources = [
        path for part in ("pipeline", "targets", "device_profiles", "src") for path in (ROOT / part).rglob("*.py")
    ]
    own = ROOT / "targets" / "executorch"
    sources.remove(ROOT / "targets" / "coreml" / "imports.py")  # the package's name: coremltools looks for it
    naming = [path for path in sources if "executorch" in path.read_text(encoding="utf-8").lower()]
    assert [
        path for path in naming if own not in path.parents and "edgewright/targets/executorch" not in str(path)
    ] == []


def test_layers_run_in_integers_whatever_form_they_were_captured_in(tmp_path: Path) -> None:
    program, batches = program_of(Mixed, 1, 2, 6, 6)
    decibels, inspection = run_file(program, batches, tmp_path)
    assert decibels["output_0"] > 45.0
    kinds = {operation.op: operation.compute for operation in inspection.operations if operation.macs}
    assert kinds == {"Conv2d": "int8", "DepthwiseConv2d": "int8", "FullyConnected": "int8"}
    assert inspection.macs == sum(node_macs(node) for node in program.graph.nodes)


def test_a_layer_that_xnnpack_leaves_keeps_its_numbers_and_is_called_float(tmp_path: Path) -> None:
    program, batches = program_of(Unbatched, 2, 6, 6)
    decibels, inspection = run_file(program, batches, tmp_path)
    assert decibels["output_0"] > 45.0
    (layer,) = [operation for operation in inspection.operations if operation.macs]
    assert (layer.op, layer.compute) == ("convolution", "float32")
    assert inspection.low_precision_share == 0.0
    assert inspection.bytes_by_dtype["int8"] == 2 * 8 * 9, "the weight is still stored in 8 bits"


def test_operations_without_a_kernel_are_refused_all_at_once(tmp_path: Path) -> None:
    program, _ = program_of(Sorted, 1, 5, scheme="fp32")
    with pytest.raises(TargetError, match="no kernel for aten::sort") as caught:
        lower(program, "executorch", tmp_path)
    assert len(caught.value.refusals) == 2
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_float16_weights_are_refused_with_the_reason() -> None:
    program = run_passes(folded("mlp"), [ConvertFloats()]).program
    refusals = get_target("executorch").refusals(program)
    assert refusals and all("32 bits" in refusal.reason for refusal in refusals)
    assert "fp16" not in get_target("executorch").capabilities.schemes


def test_products_of_activations_run_in_float_and_the_capabilities_say_so(tmp_path: Path) -> None:
    program, batches = program_of(Attention, 1, 32, 8)
    assert not get_target("executorch").capabilities.integer_products
    _, inspection = run_file(program, batches, tmp_path)
    stated = low_precision_share(program, products=False)
    assert 0.0 < stated < low_precision_share(program)
    assert inspection.low_precision_share == pytest.approx(stated)


@pytest.mark.parametrize("make", [folded, quantized], ids=["fp32", "w8a8"])
def test_the_file_names_its_ports_and_no_path_of_this_machine(make: Callable[[str], Program], tmp_path: Path) -> None:
    artifact = lower(make("two_inputs"), "executorch", tmp_path)
    content = artifact.main.read_bytes()
    assert b'{"inputs": {"features": "float32", "kind": "int64"}' in content
    assert str(ROOT).encode() not in content and b"site-packages" not in content


def test_weights_inside_of_delegates_are_counted_once(tmp_path: Path) -> None:
    program, batches = program_of(Twice, 1, 64, scheme="fp32")
    _, inspection = run_file(program, batches, tmp_path)
    assert sum(inspection.bytes_by_dtype.values()) == 4 * (64 * 64 + 64)
    assert inspection.macs == 2 * 64 * 64


def test_constants_that_are_parts_of_larger_tensors_keep_their_numbers(tmp_path: Path) -> None:
    program, batches = program_of(Sliced, 1, 5, 8, scheme="fp32")
    decibels, inspection = run_file(program, batches, tmp_path)
    assert decibels["output_0"] > 120.0
    assert sum(inspection.bytes_by_dtype.values()) == 4 * (8 * 8 + 8), "nothing is stored but the part"


def test_a_closed_session_lets_the_next_one_have_other_threads(tmp_path: Path) -> None:
    target, program = get_target("executorch"), folded("mlp")
    artifact = lower(program, "executorch", tmp_path)
    batch = {key: value.numpy() for key, value in SMALL["mlp"].batches(1)[0].items()}
    outputs: list[Any] = []
    for threads in (1, 2):
        with target.open(artifact, threads) as session:
            outputs.append(session.run(batch)["output_0"].tolist())
    assert outputs[0] == outputs[1]
