"""8-bit weights with activations that are rounded row by row as they come."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import edgewright as ew
from edgewright.errors import CalibrationError, RecipeError
from edgewright.pipeline.breakdown import scheme_of
from edgewright.pipeline.encoding import nearest_scheme
from edgewright.pipeline.low_precision import low_precision_share
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.normalize_rows import NormalizeRows
from edgewright.pipeline.passes.rounded_rows import rounded_rows
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.passes.stored_integers import stored_weights
from edgewright.pipeline.program import Program
from tests.small_models import SMALL, captured, quantized

aten = torch.ops.aten
SCHEME = "w8a8-dynamic"


def compressed(program: Program, **settings: Any) -> Program:
    return ew.compress(program, [{"pass": "quantize", "scheme": SCHEME, **settings}]).program


@pytest.fixture(scope="module")
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(32, 16)


@pytest.fixture(scope="module")
def one_layer(layer: nn.Linear) -> Program:
    return compressed(ew.capture(layer, (torch.randn(3, 5, 32),)))


def output(program: Program, x: Tensor) -> np.ndarray[Any, Any]:
    return program.run({"input": x})["output_0"].numpy()


def test_a_layer_is_the_product_of_integers_times_both_scales(one_layer: Program, layer: nn.Linear) -> None:
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 5)[:, None]
    rows, weight = x.numpy().astype(np.float64), layer.weight.detach().numpy().astype(np.float64)
    least, most = (limit(rows, axis=-1, keepdims=True) for limit in (np.min, np.max))
    row_scales = (most - least) / 255
    zeros = np.rint(-128 - least / row_scales)
    channel_scales = np.abs(weight).max(1) / 127
    integers = np.clip(np.rint(rows / row_scales) + zeros, -128, 127) - zeros
    steps = np.rint(weight / channel_scales[:, None])
    expected = integers @ steps.T * row_scales * channel_scales + layer.bias.detach().numpy()
    np.testing.assert_allclose(output(one_layer, x), expected, rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 10**6), power=st.integers(-10, 10))
@settings(max_examples=40, deadline=None)
def test_the_error_is_a_step_of_each_input_at_most(one_layer: Program, layer: nn.Linear, seed: int, power: int) -> None:
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(seed)) ** 3 * 2.0**power
    (stored,) = stored_weights(one_layer)
    weight = stored.integers * stored.scales
    exact = x.double() @ weight.double().T + layer.bias.double()
    most, least = x.amax(-1, keepdim=True).clamp(min=0), x.amin(-1, keepdim=True).clamp(max=0)
    allowed = (most - least) / 255 * weight.abs().sum(1) * 1.001 + 1e-6
    assert bool(((torch.from_numpy(output(one_layer, x)) - exact).abs() <= allowed).all())


def test_a_row_of_zeros_gives_the_bias(one_layer: Program, layer: nn.Linear) -> None:
    found = output(one_layer, torch.zeros(3, 5, 32))
    np.testing.assert_array_equal(found, layer.bias.detach().expand(3, 5, 16).numpy())


def test_rows_do_not_see_each_other(one_layer: Program) -> None:
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(2))
    larger = x.clone()
    larger[0] *= 1000
    np.testing.assert_array_equal(output(one_layer, x)[1:], output(one_layer, larger)[1:])


def test_layers_that_read_one_value_share_its_rounding() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(32, 16), nn.Linear(32, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.query(x) + self.key(x)

    (rounded,) = rounded_rows(compressed(ew.capture(Heads(), (torch.randn(4, 32),))))
    assert [user.target for user in rounded.node.users] == [aten.linear.default] * 2


def test_nothing_is_calibrated() -> None:
    with_data = ew.compress(
        captured("encoder"), [{"pass": "quantize", "scheme": SCHEME}], batches=SMALL["encoder"].batches(4)
    ).program
    (batch,) = SMALL["encoder"].batches(1, seed=5)
    without = compressed(captured("encoder"))
    assert torch.equal(with_data.run(batch)["embedding"], without.run(batch)["embedding"])


@pytest.mark.parametrize("name", ["encoder", "mlp", "two_inputs"])
def test_all_products_with_weights_are_integer_and_close(name: str) -> None:
    program = compressed(captured(name))
    assert low_precision_share(program) > 0.97
    assert sum(program.weight_bytes().values()) < 0.3 * sum(captured(name).weight_bytes().values())
    for batch in SMALL[name].batches(4, seed=5):
        for key, value in captured(name).run(batch).items():
            if value.is_floating_point():
                assert sqnr_db(value.numpy(), program.run(batch)[key].numpy()) > 33, key


def test_convolutions_and_tables_get_8_bit_weights_and_stay_in_float() -> None:
    result = ew.compress(captured("cnn"), [{"pass": "quantize", "scheme": SCHEME}])
    skips = {skip.node: skip.reason for ran in result.reports for skip in ran.report.skips}
    assert "arithmetic stays in float" in skips["stem_0_weight"]
    assert "head.weight" not in skips
    assert {stored.bits for stored in stored_weights(result.program)} == {8}
    assert 0 < low_precision_share(result.program) < 0.01, "the head alone"
    table = [stored for stored in stored_weights(compressed(captured("encoder"))) if "embed" in stored.name]
    assert [stored.is_weight_only for stored in table] == [True]


CONVOLUTIONS = [
    pytest.param(nn.Conv2d(16, 24, 3, stride=2, padding=1), (2, 16, 9, 9), (1, 2, 3), id="image by image"),
    pytest.param(nn.Conv2d(16, 24, 1, stride=2), (2, 16, 9, 9), (1, 2, 3), id="strides leave pixels out"),
    pytest.param(nn.Conv2d(16, 32, 3, padding=2, dilation=2, groups=4), (2, 16, 9, 9), (1, 2, 3), id="in groups"),
    pytest.param(nn.Conv1d(16, 24, 3, padding=1), (2, 16, 9), (1, 2), id="over one axis"),
    pytest.param(nn.Conv2d(16, 24, 1, padding=1), (2, 16, 9, 9), (1,), id="pixel by pixel"),
    pytest.param(nn.Conv1d(16, 24, 1), (2, 16, 9), (1,), id="over one axis, pixel by pixel"),
]


@pytest.mark.parametrize(("layer", "shape", "shared"), CONVOLUTIONS)
def test_a_convolution_is_the_product_of_integers_times_both_scales(
    layer: nn.Conv1d | nn.Conv2d, shape: tuple[int, ...], shared: tuple[int, ...]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x[1] *= 100
    program = compressed(ew.capture(layer, (x,)), convolutions=True)
    values = x.numpy().astype(np.float64)
    least, most = (limit(values, axis=shared, keepdims=True) for limit in (np.min, np.max))
    scales = (np.maximum(most, 0) - np.minimum(least, 0)) / 255
    zeros = np.rint(-128 - np.minimum(least, 0) / scales)
    integers = np.clip(np.rint(values / scales) + zeros, -128, 127) - zeros
    (stored,) = stored_weights(program)
    assert program.graph.output_node().args[0][0].args[1] is stored.node  # type: ignore[index]
    exact = copy.deepcopy(layer).double()
    exact.weight.data = (stored.integers * stored.scales).double()
    expected = exact(torch.from_numpy(integers * scales)).detach().numpy()
    for image, wanted in zip(output(program, x), expected, strict=True):  # the second is a hundred times the first
        np.testing.assert_allclose(image, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    assert low_precision_share(program) == 1


def test_what_no_kernel_rounds_for_keeps_float_arithmetic_and_says_why() -> None:
    result = ew.compress(captured("cnn"), [{"pass": "quantize", "scheme": SCHEME, "convolutions": True}])
    skips = {skip.node: skip.reason for ran in result.reports for skip in ran.report.skips}
    assert set(skips) == {"stem_0_weight", "depthwise_0_weight"}
    assert all("single channels" in reason for reason in skips.values())
    assert low_precision_share(result.program) > 0.9
    (batch,) = SMALL["cnn"].batches(1, seed=5)
    exact, found = (made.run(batch)["logits"].numpy() for made in (captured("cnn"), result.program))
    assert sqnr_db(exact, found) > 30
    layers = [node for node in result.program.graph.nodes if node.target is aten.conv2d.default]
    schemes = [scheme_of(result.program, layer) for layer in layers]
    assert schemes == ["w8", "w8", *["w8a8-dynamic"] * 5]


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (nn.ConvTranspose2d(16, 16, 2), (1, 16, 5, 5), "transposed"),
        (nn.Conv3d(4, 8, 3), (1, 4, 5, 5, 5), "over three axes"),
        (nn.Conv2d(16, 16, 3), (16, 5, 5), "it reads no batch"),
    ],
)
def test_other_convolutions_stay_in_float(layer: nn.Module, shape: tuple[int, ...], reason: str) -> None:
    recipe = [{"pass": "quantize", "scheme": SCHEME, "convolutions": True}]
    result = ew.compress(ew.capture(layer, (torch.randn(shape),)), recipe)
    assert not [*rounded_rows(result.program)]
    assert reason in "".join(skip.reason for ran in result.reports for skip in ran.report.skips)


def test_convolutions_of_one_value_share_a_rounding_where_they_share_scales() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pixels = nn.ModuleList([nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)])
            self.images = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 5, padding=2)])

        def forward(self, x: Tensor) -> Tensor:
            return sum(layer(x) for layer in (*self.pixels, *self.images))  # type: ignore[return-value]

    program = compressed(ew.capture(Branches(), (torch.randn(2, 16, 6, 6),)), convolutions=True)
    assert [len(rounded.node.users) for rounded in rounded_rows(program)] == [2, 2]


def test_learned_rounding_takes_the_settings_of_quantize_weights() -> None:
    batches = SMALL["mlp"].batches(16)
    recipe = [{"pass": "quantize", "scheme": SCHEME, "rounding": "gptq", "modules": "layers.0|layers.2"}]
    learned = ew.compress(captured("mlp"), recipe, batches=batches).program
    plain = compressed(captured("mlp"), modules="layers.0|layers.2")
    assert len([*rounded_rows(learned)]) == len([*rounded_rows(plain)]) == 2
    different = [
        not torch.equal(one.integers, other.integers)
        for one, other in zip(stored_weights(learned), stored_weights(plain), strict=True)
    ]
    assert any(different)
    with pytest.raises(CalibrationError, match="needs calibration data"):
        compressed(captured("mlp"), rounding="gptq")


def test_bad_settings_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"matches no module\n  got: 'layer\.0'\n  expected: did you mean"):
        compressed(captured("mlp"), modules="layer.0")
    with pytest.raises(RecipeError, match="no such setting"):
        compressed(captured("mlp"), bits=4)
    with pytest.raises(RecipeError, match="no such rounding"):
        compressed(captured("mlp"), rounding="nearst")


def test_what_is_no_float32_is_left_alone_and_says_so() -> None:
    program = ew.capture(nn.Linear(32, 16).double(), (torch.randn(4, 32, dtype=torch.float64),))
    result = ew.compress(program, [{"pass": "quantize", "scheme": SCHEME}])
    assert not [*rounded_rows(result.program)]
    assert "float64" in "".join(skip.reason for ran in result.reports for skip in ran.report.skips)


def test_rows_of_one_sign_use_all_integers(one_layer: Program, layer: nn.Linear) -> None:
    x = torch.rand(3, 5, 32, generator=torch.Generator().manual_seed(3))
    (stored,) = stored_weights(one_layer)
    weight, bias = stored.integers * stored.scales, layer.bias.detach()
    largest = x.amax(-1, keepdim=True)
    exact, signed = x @ weight.T + bias, torch.round(x / largest * 127) * largest / 127 @ weight.T + bias
    assert sqnr_db(exact.numpy(), output(one_layer, x)) > sqnr_db(exact.numpy(), signed.numpy()) + 4


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_it_composes_with_static_and_float16_steps(order: tuple[int, ...]) -> None:
    steps = [
        {"pass": "quantize", "scheme": "w8a8", "modules": "block*"},
        {"pass": "quantize", "scheme": SCHEME, "modules": "project"},
        {"pass": "quantize", "scheme": "fp16"},
    ]
    batches = SMALL["encoder"].batches(8)
    program = ew.compress(captured("encoder"), [steps[place] for place in order], batches=batches).program
    assert len([*rounded_rows(program)]) == 1
    assert low_precision_share(program) > 0.97
    kinds = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "quantized_decomposed.quantize_per_tensor.default" in kinds
    assert {"int8", "float16"} <= set(program.weight_bytes())
    (batch,) = SMALL["encoder"].batches(1, seed=5)
    expected = captured("encoder").run(batch)["embedding"]
    assert sqnr_db(expected.numpy(), program.run(batch)["embedding"].numpy()) > 20


# What targets make of it


@pytest.mark.parametrize("name", ["encoder", "mlp", "two_inputs"])
def test_fixed_scales_behind_a_division_give_the_same_numbers(name: str) -> None:
    before = compressed(captured(name))
    after = run_passes(before, [NormalizeRows()])
    assert after.reports[0].report.rewrites == 3 + (name == "encoder") * 2
    assert not [*rounded_rows(after.program)]
    assert low_precision_share(after.program) == low_precision_share(before)
    original, graph, found = (
        np.concatenate([next(iter(program.run(batch).values())).numpy() for batch in SMALL[name].batches(8, seed=5)])
        for program in (captured(name), before, after.program)
    )
    assert sqnr_db(graph, found) > 50, "here and there another integer, where a quotient ends in .5"
    assert abs(sqnr_db(original, found) - sqnr_db(original, graph)) < 0.5


def test_a_layer_that_reads_a_layer_reads_its_result() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 32, bias=False)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.first(x)
            return {"y": y, "z": self.second(y)}

    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(4))
    before = compressed(ew.capture(Stack(), (x,)))
    expected, found = before.run({"x": x}), run_passes(before, [NormalizeRows()]).program.run({"x": x})
    assert all(sqnr_db(expected[key].numpy(), found[key].numpy()) > 60 for key in ("y", "z"))


def test_programs_without_it_are_not_touched() -> None:
    assert run_passes(quantized("encoder"), [NormalizeRows()]).reports[0].report.rewrites == 0


@pytest.mark.parametrize(
    ("known", "nearest"), [(("fp32", "w8a8", "w8"), "w8"), (("fp32", "w8a8"), "w8a8"), (("fp32",), None)]
)
def test_the_nearest_scheme_keeps_the_weights_first(known: tuple[str, ...], nearest: str | None) -> None:
    assert nearest_scheme(SCHEME, known) == nearest
