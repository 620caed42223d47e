"""Passes that make room for outliers, put biases on the integer grid, and halve weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgewright as ew
from edgewright.calibration import collect as calibration_collect
from edgewright.errors import RecipeError, TargetError
from edgewright.pipeline.lowering import refuse_schemes
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.balance_outputs import BalanceOutputs
from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.convert_floats import ConvertFloats
from edgewright.pipeline.passes.encoded_values import encoded_values
from edgewright.pipeline.passes.graph import add_constant
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.passes.smooth_activations import SmoothActivations
from edgewright.pipeline.program import Program

aten = torch.ops.aten
W8A8 = [{"pass": "quantize", "scheme": "w8a8"}]


class Block(nn.Module):
    """A post-norm feed-forward block with a massive channel inside and one in its result, as language encoders have."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        with torch.no_grad():
            self.norm.weight[3] = 30.0
            self.down.weight[5] *= 100.0

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return normed + self.down(F.gelu(self.up(normed)))


class Head(nn.Module):
    """A convolution whose dead and loud channels reach the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 4)
        with torch.no_grad():
            self.conv.weight[0], self.conv.bias[0] = 0.0, -1.0
            self.conv.weight[1] *= 50.0

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(image)).mean((2, 3)))


def program_of(model: nn.Module, *shape: int) -> tuple[Program, list[dict[str, Tensor]]]:
    torch.manual_seed(0)
    batches = [torch.randn(shape) for _ in range(16)]
    program = ew.capture(model, (batches[0],))
    return program, [{program.inputs[0].name: batch} for batch in batches]


def outputs(program: Program, batches: list[dict[str, Tensor]]) -> Tensor:
    return torch.cat([next(iter(program.run(batch).values())) for batch in batches])


def block() -> tuple[Program, list[dict[str, Tensor]]]:
    torch.manual_seed(1)
    return program_of(Block(), 4, 16)


@pytest.mark.parametrize("step", [SmoothActivations(), BalanceOutputs()], ids=lambda step: step.name)
def test_outlier_passes_fire_and_change_no_number(step: SmoothActivations | BalanceOutputs) -> None:
    program, batches = block()
    result = run_passes(program, [step], Context(batches))
    assert result.reports[0].report.rewrites > 0
    assert sqnr_db(outputs(program, batches).numpy(), outputs(result.program, batches).numpy()) > 110


def test_int8_with_the_outlier_passes_beats_int8_without_them_by_far() -> None:
    program, batches = block()
    plain = [{"pass": "quantize-static"}]
    reference = outputs(program, batches).numpy()
    without = sqnr_db(reference, outputs(ew.compress(program, plain, batches=batches).program, batches).numpy())
    with_them = sqnr_db(reference, outputs(ew.compress(program, W8A8, batches=batches).program, batches).numpy())
    assert with_them > without + 1.0


def test_a_convolutional_classifier_is_left_alone_since_a_runtime_would_round_the_factors() -> None:
    program, batches = program_of(Head(), 1, 1, 8, 8)
    result = run_passes(program, [SmoothActivations(), BalanceOutputs()], Context(batches))
    assert [ran.report.rewrites for ran in result.reports] == [0, 0]
    assert all(skip.reason for ran in result.reports for skip in ran.report.skips)
    assert any("encoding of its own" in skip.reason for skip in result.reports[0].report.skips)


def test_dead_channels_get_no_extreme_factor() -> None:
    torch.manual_seed(1)
    model = Block()
    with torch.no_grad():
        model.norm.weight[7] = model.norm.bias[7] = 0.0
    program, batches = program_of(model, 4, 16)
    result = run_passes(program, [SmoothActivations()], Context(batches)).program
    smoothing = [tensor for node, tensor in result.constants() if "smoothing" in str(node.target)]
    assert smoothing
    assert all(float(tensor.abs().max()) < 1e3 for tensor in smoothing)


def test_a_channel_that_calibration_hardly_saw_is_not_made_louder() -> None:
    """What it does later would leave the range: smoothing moves the loud ones alone."""
    model = Block()
    with torch.no_grad():
        model.norm.weight[7] = 1e-3
    program, batches = program_of(model, 4, 16)
    result = run_passes(program, [SmoothActivations()], Context(batches)).program
    smoothing = next(
        result.tensor(node)
        for node, _ in result.constants()
        if "layer_norm" in str(node.target) and "smoothing" in str(node.target)
    )
    others = torch.cat([smoothing[:3], smoothing[4:7], smoothing[8:]])
    assert smoothing[3] < others.min()
    assert smoothing[7] < 2 * others.max()


def test_a_layer_before_a_hard_swish_is_not_balanced() -> None:
    """OpenVINO computed other numbers there."""
    layer = nn.Linear(16, 32)
    with torch.no_grad():
        layer.weight[5] *= 100.0
    for activation, rewrites in ((nn.Hardswish(), 0), (nn.GELU(), 1)):
        program, batches = program_of(nn.Sequential(layer, activation, nn.Linear(32, 4)), 4, 16)
        reports = run_passes(program, [BalanceOutputs()], Context(batches)).reports
        assert reports[0].report.rewrites == rewrites


def test_encoded_values_are_layers_their_moves_and_convolutional_chains() -> None:
    program, _ = program_of(Head(), 1, 1, 8, 8)
    names = {node.target for node in encoded_values(program.graph)}
    assert {aten.conv2d.default, aten.relu.default, aten.mean.dim, aten.linear.default} <= names
    program, _ = block()
    assert aten.gelu.default not in {node.target for node in encoded_values(program.graph)}


def test_biases_lie_on_the_grid_of_their_layers_scales() -> None:
    program, batches = program_of(Head(), 1, 1, 8, 8)
    compressed = ew.compress(program, W8A8, batches=batches).program
    layers = [node for node in compressed.graph.nodes if node.target in (aten.conv2d.default, aten.linear.default)]
    assert len(layers) == 2
    for layer in layers:
        data, weight, bias = layer.args[:3]
        step = compressed.tensor(weight.args[1]).double() * float(data.args[1])
        steps = compressed.tensor(bias).double() / step
        assert float((steps - steps.round()).abs().max()) < 1e-3 * max(1.0, float(steps.abs().max()) * 1e-3)


def test_an_int8_convolutional_network_is_bit_exact_in_integer_runtimes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    program, batches = program_of(Head(), 1, 1, 8, 8)
    compressed = ew.compress(program, W8A8, batches=batches).program
    verdict = ew.validate(ew.lower(compressed, "onnx", tmp_path), compressed, batches)
    assert verdict.outputs["output_0"].max_difference == 0.0


def test_fp16_stores_halves_and_skips_what_would_overflow() -> None:
    program, batches = program_of(nn.Linear(32, 32), 1, 32)
    half = run_passes(program, [ConvertFloats()]).program
    assert half.weight_bytes()["float16"] == 32 * 32 * 2
    assert 50 < sqnr_db(outputs(program, batches).numpy(), outputs(half, batches).numpy()) < 100
    loud = nn.Linear(32, 32)
    with torch.no_grad():
        loud.weight[0, 0] = 1e5
    report = run_passes(program_of(loud, 1, 32)[0], [ConvertFloats()]).reports[0].report
    assert report.rewrites == 0
    assert "65504" in report.skips[0].reason


def test_bf16_stores_halves_of_float32s_range() -> None:
    loud = nn.Linear(32, 32)
    with torch.no_grad():
        loud.weight[0, 0] = 1e5
    program, batches = program_of(loud, 1, 32)
    half = ew.compress(program, [{"pass": "quantize", "scheme": "bf16"}]).program
    assert half.weight_bytes()["bfloat16"] == 32 * 32 * 2
    assert 40 < sqnr_db(outputs(program, batches).numpy(), outputs(half, batches).numpy()) < 80
    with pytest.raises(RecipeError, match="float16 or bfloat16"):
        run_passes(program, [ConvertFloats(dtype="float8")])


@pytest.mark.parametrize("target", ["coreml", "tflite", "executorch"])
def test_bf16_is_refused_with_the_nearest_scheme(target: str, tmp_path: Path) -> None:
    from edgewright.targets import get_target, require_runtime

    chosen = get_target(target)
    try:
        require_runtime(chosen)
    except TargetError as error:
        pytest.skip(str(error))
    nearest = "fp32" if target == "executorch" else "fp16"
    with pytest.raises(TargetError, match=f"no native form of bf16(?s:.*)'{nearest}', the nearest"):
        refuse_schemes(chosen, ["bf16"])
    half = ew.compress(program_of(nn.Linear(32, 32), 1, 32)[0], [{"pass": "quantize", "scheme": "bf16"}]).program
    with pytest.raises(TargetError, match=f"no weights as bfloat16; compress with '{nearest}'"):
        ew.lower(half, target, tmp_path)


@pytest.mark.parametrize(
    ("target", "scheme"),
    [
        *[(target, "fp16") for target in ("onnx", "openvino", "coreml", "tflite")],
        *[(target, "bf16") for target in ("onnx", "openvino")],
    ],
)
def test_files_of_16_bits_are_half_the_size_and_within_the_targets_tolerance(
    target: str, scheme: str, tmp_path: Path
) -> None:
    from edgewright.targets import get_target, require_runtime

    chosen = get_target(target)
    try:
        require_runtime(chosen)
    except TargetError as error:
        pytest.skip(str(error))
    torch.manual_seed(2)
    program, batches = program_of(nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128)), 1, 128)
    half = ew.compress(program, [{"pass": "quantize", "scheme": scheme}]).program
    artifact = ew.lower(half, target, tmp_path)
    assert ew.validate(artifact, half, batches, original=program).passed
    stored = chosen.inspect(artifact).bytes_by_dtype
    assert stored["float16" if scheme == "fp16" else "bfloat16"] >= 2 * 128 * 256 * 2
    assert stored.get("float32", 0) < 10_000


def test_integer_outer_ports_of_tflite_compute_the_same_and_say_their_encodings(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="the tflite extra is not installed")
    program, batches = program_of(Head(), 1, 1, 8, 8)
    compressed = ew.compress(program, W8A8, batches=batches).program
    artifact = ew.lower(compressed, "tflite", tmp_path, integer_boundary=True)
    with ew.open(artifact) as session:
        assert {name: encoding.dtype for name, encoding in session.encodings.items()} == {
            "image": "int8",
            "output_0": "int8",
        }
    assert ew.validate(artifact, compressed, batches).outputs["output_0"].max_difference == 0.0


def test_integer_outer_ports_are_refused_where_a_format_has_none(tmp_path: Path) -> None:

    program, _ = program_of(nn.ReLU(), 1, 4)
    with pytest.raises(TargetError, match="integer_boundary"):
        ew.lower(program, "onnx", tmp_path, integer_boundary=True)


def test_smoothing_and_balancing_share_one_run_over_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    program, batches = program_of(Block(), 4, 16)
    runs: list[int] = []
    collect = calibration_collect._collect
    monkeypatch.setattr(calibration_collect, "_collect", lambda *args: runs.append(1) or collect(*args))
    context = Context(batches)
    together = run_passes(program, [SmoothActivations(), BalanceOutputs()], context).program
    assert len(runs) == 1
    smoothed = run_passes(program, [SmoothActivations()], context).program
    apart = run_passes(smoothed, [BalanceOutputs()], context).program
    assert len(runs) == 3, "another run of passes, perhaps of another program, starts anew"
    for name, value in apart.run(batches[0]).items():
        assert sqnr_db(value.numpy(), together.run(batches[0])[name].numpy()) > 100
    assert len(list(apart.graph.nodes)) == len(list(together.graph.nodes))


def test_maxima_are_forgotten_where_a_pass_changes_the_values() -> None:
    program, batches = program_of(Block(), 4, 16)

    @dataclass(frozen=True)
    class DoubleNorm:
        name: ClassVar[str] = "double-norm"
        runs_after: ClassVar[tuple[str, ...]] = ()

        def run(self, program: Program, context: Context) -> PassReport:
            (norm,) = program.graph.find_nodes(op="call_function", target=aten.layer_norm.default)
            norm.update_arg(2, add_constant(program, "doubled", program.tensor(norm.args[2]) * 2, norm))
            return PassReport(1)

    context = Context(batches)
    found = []

    @dataclass(frozen=True)
    class Look:
        name: ClassVar[str] = "look"
        runs_after: ClassVar[tuple[str, ...]] = ()

        def run(self, program: Program, context: Context) -> PassReport:
            (norm,) = program.graph.find_nodes(op="call_function", target=aten.layer_norm.default)
            found.append(context.maxima.of(program, [norm])[norm])
            return PassReport(0)

    run_passes(program, [Look(), DoubleNorm(), Look()], context)
    assert found[1][3] > 1.9 * found[0][3]
