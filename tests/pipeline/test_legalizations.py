"""What targets ask for before they convert: rewrites that may not change a single number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from edgewright.pipeline.capture import capture
from edgewright.pipeline.passes.absorb_activations import AbsorbActivations
from edgewright.pipeline.passes.base import Pass, PassReport
from edgewright.pipeline.passes.look_up_integers import LookUpIntegers
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.passes.separate_outputs import SeparateOutputs
from edgewright.pipeline.passes.shift_activations import ShiftActivations
from edgewright.pipeline.passes.spell_out_defaults import SpellOutDefaults
from edgewright.pipeline.passes.unfold_weights import UnfoldWeights
from edgewright.pipeline.program import Program, TensorSpec
from tests.small_models import SMALL, captured, quantized

aten, quantized_ops = torch.ops.aten, torch.ops.quantized_decomposed

SCALES = st.floats(2.0**-20, 64.0, width=32, allow_nan=False)
EXACT: list[Pass] = [AbsorbActivations(), ShiftActivations(), UnfoldWeights(), SpellOutDefaults(), SeparateOutputs()]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("step", EXACT, ids=lambda step: step.name)
def test_a_legalization_changes_no_bit_of_a_small_model(step: Pass, name: str) -> None:
    program = quantized(name)
    after = run_passes(program, [step]).program
    for batch in SMALL[name].batches(3, seed=6):
        expected, got = program.run(batch), after.run(batch)
        for key in expected:
            assert torch.equal(got[key], expected[key])


def test_looking_up_integers_changes_rounding_only() -> None:
    for name in ("encoder", "two_inputs"):
        after = run_passes(quantized(name), [LookUpIntegers()]).program
        for batch in SMALL[name].batches(3, seed=6):
            expected, got = quantized(name).run(batch), after.run(batch)
            for key in expected:
                assert torch.allclose(got[key], expected[key], rtol=1e-5, atol=1e-6)


OF_INTEGERS: list[Pass] = [AbsorbActivations(), ShiftActivations(), UnfoldWeights(), LookUpIntegers()]


@pytest.mark.parametrize("step", OF_INTEGERS, ids=lambda step: step.name)
def test_a_legalization_of_quantization_leaves_a_float_program_alone(step: Pass) -> None:
    result = run_passes(captured("two_inputs"), [step])
    assert result.reports[0].report == PassReport(0)
    assert result.program.digest() == captured("two_inputs").digest()


# shift-activations


def pair_program(scale: float, zero_point: int, x: Tensor) -> Program:
    """x -> quantize -> dequantize, signed."""
    graph = Graph()
    node = graph.placeholder("x")
    node.meta["val"] = x.to("meta")
    arguments = (scale, zero_point, -128, 127, torch.int8)
    stored = graph.call_function(quantized_ops.quantize_per_tensor.default, (node, *arguments))
    result = graph.call_function(quantized_ops.dequantize_per_tensor.default, (stored, *arguments))
    graph.output((result,))
    return Program(GraphModule({}, graph), (TensorSpec.of("x", x),), (TensorSpec.of("output_0", x),), (x,))


@settings(max_examples=60, deadline=None)
@given(
    scale=SCALES,
    zero_point=st.integers(-128, 127),
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
)
def test_shifted_activations_are_the_same_numbers_bit_for_bit(
    scale: float, zero_point: int, values: list[float]
) -> None:
    x = torch.tensor(values)
    program = pair_program(scale, zero_point, x)
    result = run_passes(program, [ShiftActivations()])
    assert result.reports[0].report.rewrites == 2
    dtypes = [node.args[5] for node in result.program.graph.nodes if node.op == "call_function"]
    assert dtypes == [torch.uint8, torch.uint8]
    assert torch.equal(result.program.run({"x": x})["output_0"], program.run({"x": x})["output_0"])


def test_stored_weights_keep_their_signed_integers() -> None:
    program = run_passes(quantized("two_inputs"), [ShiftActivations()]).program
    stored = [
        node.args[5]
        for node in program.graph.nodes
        if node.target is quantized_ops.dequantize_per_tensor.default and node.args[0].op == "get_attr"
    ]
    assert stored == [torch.int8]
    assert program.weight_bytes() == quantized("two_inputs").weight_bytes()


# absorb-activations


def clamped_program(target: Any, limits: tuple[float, ...], scale: float, zero_point: int, *, reader: Any) -> Program:
    """x -> an activation -> quantize -> dequantize, signed; `reader` is one more operation on the activation."""
    x = torch.linspace(-8.0, 8.0, 1601)
    graph = Graph()
    node = graph.placeholder("x")
    clamped = graph.call_function(target, (node, *limits))
    arguments = (scale, zero_point, -128, 127, torch.int8)
    stored = graph.call_function(quantized_ops.quantize_per_tensor.default, (clamped, *arguments))
    result = graph.call_function(quantized_ops.dequantize_per_tensor.default, (stored, *arguments))
    results = [result] if reader is None else [result, graph.call_function(reader, (clamped,))]
    for value in (node, clamped, *results):
        value.meta["val"] = x.to("meta")
    stored.meta["val"] = x.to("meta", torch.int8)
    graph.output(tuple(results))
    outputs = tuple(TensorSpec.of(f"output_{place}", x) for place in range(len(results)))
    return Program(GraphModule({}, graph), (TensorSpec.of("x", x),), outputs, (x,))


RELU, RELU6, HARDTANH = aten.relu.default, aten.relu6.default, aten.hardtanh.default


@pytest.mark.parametrize(
    ("target", "limits", "scale", "zero_point", "absorbed"),
    [
        (RELU, (), 0.02, -128, True),
        (RELU, (), 0.02, -127, False),  # integers below the zero point are values below zero
        (RELU, (), 0.02, 0, False),
        (RELU6, (), 6.0 / 255.0, -128, True),
        (RELU6, (), 0.02, -128, True),
        (RELU6, (), 0.03, -128, False),  # integers reach 7.65
        (HARDTANH, (), 1.0 / 128.0, 0, True),
        (HARDTANH, (), 0.01, 0, False),
        (HARDTANH, (-0.5,), 1.0 / 170.0, -43, True),
        (HARDTANH, (-0.5,), 1.0 / 128.0, 0, False),
        (HARDTANH, (0.0, 6.0), 6.0 / 255.0, -128, True),
    ],
)
def test_an_activation_is_absorbed_where_its_quantization_saturates(
    target: Any, limits: tuple[float, ...], scale: float, zero_point: int, absorbed: bool
) -> None:
    program = clamped_program(target, limits, scale, zero_point, reader=None)
    result = run_passes(program, [AbsorbActivations()])
    assert result.reports[0].report == PassReport(int(absorbed))
    assert bool(result.program.graph.find_nodes(op="call_function", target=target)) is not absorbed
    x = program.example[0]
    assert torch.equal(result.program.run({"x": x})["output_0"], program.run({"x": x})["output_0"])


def test_an_activation_with_another_reader_stays() -> None:
    program = clamped_program(RELU, (), 0.02, -128, reader=aten.neg.default)
    result = run_passes(program, [AbsorbActivations()])
    assert result.reports[0].report == PassReport(0)
    assert result.program.digest() == program.digest()


# unfold-weights


@settings(max_examples=60, deadline=None)
@given(scales=st.lists(SCALES, min_size=1, max_size=5), seed=st.integers(0, 2**31))
def test_unfolded_weights_round_back_to_the_same_integers(scales: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    stored = torch.randint(-127, 128, (len(scales), 9), dtype=torch.int8, generator=generator)
    arguments = (torch.tensor(scales), torch.zeros(len(scales), dtype=torch.int64), 0, -127, 127, torch.int8)
    weight = quantized_ops.dequantize_per_channel.default(stored, *arguments)
    assert torch.equal(quantized_ops.quantize_per_channel.default(weight, *arguments), stored)


@pytest.mark.parametrize("name", ["cnn", "two_inputs"])
def test_every_stored_weight_is_unfolded(name: str) -> None:
    program = quantized(name)
    result = run_passes(program, [UnfoldWeights()])
    integers = [tensor for _, tensor in program.constants() if tensor.dtype == torch.int8]
    assert result.reports[0].report.rewrites == len(integers) > 0
    assert "int8" not in result.program.weight_bytes()


# look-up-integers


def test_an_embedding_looks_up_integers_and_scales_what_it_found() -> None:
    result = run_passes(quantized("encoder"), [LookUpIntegers()])
    assert result.reports[0].report == PassReport(1)
    (lookup,) = result.program.graph.find_nodes(op="call_function", target=aten.embedding.default)
    table = result.program.tensor(lookup.args[0])
    assert (table.dtype, tuple(table.shape)) == (torch.int8, (50, 128))


def test_a_table_that_is_not_symmetric_is_left_with_the_reason() -> None:
    program = quantized("encoder").clone()
    (lookup,) = program.graph.find_nodes(op="call_function", target=aten.embedding.default)
    lookup.args[0].update_arg(2, 3)
    program.module.recompile()
    result = run_passes(program, [LookUpIntegers()])
    assert result.reports[0].report.rewrites == 0
    assert [skip.reason for skip in result.reports[0].report.skips] == ["its table is not symmetric"]


# spell-out-defaults


class Pools(nn.Module):
    def __init__(self, *arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, *self.arguments)


def test_a_pool_without_stride_gets_its_kernels() -> None:
    result = run_passes(capture(Pools(3), (torch.randn(1, 2, 9, 9),)), [SpellOutDefaults()])
    (pool,) = result.program.graph.find_nodes(op="call_function", target=aten.max_pool2d.default)
    assert pool.args[1:3] == ([3, 3], [3, 3])
    assert result.reports[0].report == PassReport(1)


def test_a_pool_with_a_stride_is_left_alone() -> None:
    result = run_passes(capture(Pools(3, 2), (torch.randn(1, 2, 9, 9),)), [SpellOutDefaults()])
    (pool,) = result.program.graph.find_nodes(op="call_function", target=aten.max_pool2d.default)
    assert pool.args[2] == [2, 2]
    assert result.reports[0].report == PassReport(0)


# separate-outputs


class ReturnsTwice(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = F.relu(x)
        return {"a": y, "b": y, "same": x}


def test_every_output_becomes_a_value_of_its_own() -> None:
    x = torch.randn(2, 3)
    program = capture(ReturnsTwice(), (x,))
    result = run_passes(program, [SeparateOutputs()])
    assert result.reports[0].report == PassReport(2)
    returned = result.program.graph.output_node().args[0]
    assert len(set(returned)) == 3
    assert all(node.op == "call_function" for node in returned)
    for key, value in program.run({"x": x}).items():
        assert torch.equal(result.program.run({"x": x})[key], value)
