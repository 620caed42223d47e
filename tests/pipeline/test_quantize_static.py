"""Static 8-bit quantization: what gets an encoding, what shares one, what stays float, and how good it is."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

import edgewright as ew
from edgewright.calibration.observers import BEST, OBSERVERS
from edgewright.errors import CalibrationError, RecipeError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.metrics import sqnr_by_output, sqnr_db
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.decompose_attention import DecomposeAttention
from edgewright.pipeline.passes.quantize_static import QuantizeStatic
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.program import Program
from edgewright.targets import get_target
from tests.small_models import CALIBRATION, SMALL, Batch, captured, folded, outputs, quantized
from tests.small_release import is_installed

aten, q = torch.ops.aten, torch.ops.quantized_decomposed
QUANTIZE, DEQUANTIZE = q.quantize_per_tensor.default, q.dequantize_per_tensor.default
PER_CHANNEL = q.dequantize_per_channel.default

# What the pass reached when these tests were written, less 2 dB.
FLOORS_DB = {"cnn": 41.5, "encoder": 33.5, "two_inputs": 33.5, "mlp": 36.0}


def nodes(program: Program, target: object) -> list[Node]:
    return program.graph.find_nodes(op="call_function", target=target)


def encoding(node: Any) -> tuple[Any, ...] | None:
    """(scale, zero point) of the quantized value that a node reads or writes, through its Q/DQ pair."""
    if node.target is DEQUANTIZE:
        return tuple(node.args[1:3])
    quantizers = [user for user in node.users if user.target is QUANTIZE]
    return tuple(quantizers[0].args[1:3]) if quantizers else None


def is_quantized(value: Any) -> bool:
    return isinstance(value, Node) and value.target in (DEQUANTIZE, PER_CHANNEL)


def compress(model: nn.Module, batches: list[Batch], **settings: Any) -> Program:
    program = run_passes(capture(model, batches[0]), [DecomposeAttention()]).program
    return run_passes(program, [QuantizeStatic(**settings)], Context(batches=batches)).program


class Net(nn.Module):
    """`compute(self, x)` over named parts."""

    def __init__(self, compute: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def images(count: int = 4, channels: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [{"x": torch.randn(1, channels, 8, 8, generator=generator)} for _ in range(count)]


# Encodings


@pytest.mark.parametrize("observer", [BEST, *OBSERVERS])
def test_samples_that_run_side_by_side_give_the_same_encodings(observer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = Net(lambda net, x: torch.cat([x, net.conv(x)]), conv=nn.Conv2d(3, 3, 3, padding=1)), images(24)
    found = []
    for times in (1, 2):
        monkeypatch.setattr("os.cpu_count", lambda times=times: times * torch.get_num_threads())
        found.append(compress(model, batches, observer=observer).digest())
    assert found[0] == found[1]


@pytest.mark.parametrize("name", SMALL)
def test_every_layers_weight_is_int8_symmetric_per_output_channel(name: str) -> None:
    program = quantized(name)
    layers = [*nodes(program, aten.conv2d.default), *nodes(program, aten.linear.default)]
    assert len(layers) == {"cnn": 8, "encoder": 5, "two_inputs": 3, "mlp": 3}[name]
    for layer in layers:
        weight = layer.args[1]
        assert weight.target is PER_CHANNEL
        stored, scale, zero_point = (program.tensor(part) for part in weight.args[:3])
        assert weight.args[3:] == (0, -127, 127, torch.int8)
        assert stored.dtype == torch.int8
        assert tuple(scale.shape) == (stored.shape[0],)
        assert bool((zero_point == 0).all())
        assert bool((scale > 0).all())
        peaks = stored.flatten(1).abs().amax(1)
        assert int(peaks.min()) == 127, "each channel uses the whole range"


@pytest.mark.parametrize("name", SMALL)
def test_every_activation_has_one_encoding_in_int8(name: str) -> None:
    pairs = nodes(quantized(name), QUANTIZE)
    assert pairs
    for node in pairs:
        scale, zero_point, low, high, dtype = node.args[1:]
        assert isinstance(scale, float)
        assert scale > 0
        assert -128 <= zero_point <= 127
        assert (low, high, dtype) == (-128, 127, torch.int8)


@pytest.mark.parametrize("name", ["encoder", "two_inputs"])
def test_integer_tensors_are_untouched(name: str) -> None:
    program = quantized(name)
    for batch in SMALL[name].batches(1):
        for node in nodes(program, QUANTIZE):
            assert node.args[0].meta["val"].is_floating_point()
        assert {spec.dtype for spec in program.inputs} & {"int64"}
        assert program.run(batch)
    (lookup,) = nodes(program, aten.embedding.default)
    assert lookup.args[1].op == "placeholder"


def test_an_embedding_table_is_stored_as_int8() -> None:
    (lookup,) = nodes(quantized("encoder"), aten.embedding.default)
    assert lookup.args[0].target is DEQUANTIZE
    assert quantized("encoder").tensor(lookup.args[0].args[0]).dtype == torch.int8


# Convolution chains


def test_every_layer_of_the_cnn_reads_and_writes_integers() -> None:
    program = quantized("cnn")
    for target in (
        aten.conv2d.default,
        aten.linear.default,
        aten.add.Tensor,
        aten.max_pool2d.default,
        aten.mean.dim,
    ):
        found = nodes(program, target)
        assert found
        for node in found:
            assert is_quantized(node.args[0]), node
            writer = next(iter(node.users)) if next(iter(node.users)).target is aten.relu.default else node
            assert encoding(writer) is not None, node


def test_a_residual_add_reads_two_quantized_values() -> None:
    (add,) = nodes(quantized("cnn"), aten.add.Tensor)
    assert all(is_quantized(arg) for arg in add.args[:2])


def test_a_relu_is_fused_no_encoding_stands_before_it() -> None:
    program = quantized("cnn")
    relus = nodes(program, aten.relu.default)
    assert len(relus) == 7
    for relu in relus:
        assert relu.args[0].target in (aten.conv2d.default, aten.add.Tensor)
        assert list(relu.args[0].users) == [relu]
        assert encoding(relu)[1] == -128, "nothing of the range is spent on negative numbers"  # type: ignore[index]


def test_concatenation_shares_one_encoding() -> None:
    (cat,) = nodes(quantized("cnn"), aten.cat.default)
    encodings = {encoding(part) for part in cat.args[0]} | {encoding(cat)}
    assert len(encodings) == 1
    assert None not in encodings


def test_concatenation_of_different_ranges_shares_the_widest() -> None:
    torch.manual_seed(0)
    net = Net(
        lambda self, x: torch.cat([self.a(x), F.relu(self.b(x)), self.c(x)], 1),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(3, 4, 1),
        c=nn.Conv2d(3, 4, 1),
    )
    net.c.weight.data *= 20.0  # type: ignore[operator, union-attr]
    program = compress(net, images())
    (cat,) = nodes(program, aten.cat.default)
    assert [encoding(part) for part in cat.args[0]] == [encoding(cat)] * 3
    assert encoding(cat) is not None
    expected = torch.cat([net(batch["x"]) for batch in images()])
    got = torch.cat([program.run(batch)["output_0"] for batch in images()])
    assert expected.abs().max() > 5.0
    assert (got - expected).abs().max() < 0.02 * (expected.max() - expected.min())


@pytest.mark.parametrize(
    ("move", "target"),
    [
        (lambda x: F.max_pool2d(x, 2), aten.max_pool2d.default),
        (lambda x: F.avg_pool2d(x, 2), aten.avg_pool2d.default),
        (lambda x: x.reshape(1, -1), aten.reshape.default),
        (lambda x: x.permute(0, 2, 3, 1), aten.permute.default),
        (lambda x: x[:, :, 1:], aten.slice.Tensor),
        (lambda x: F.pad(x, (1, 1)), aten.constant_pad_nd.default),
    ],
)
def test_what_only_moves_values_shares_its_inputs_encoding(move: Callable[[Tensor], Tensor], target: object) -> None:
    torch.manual_seed(0)
    program = compress(Net(lambda self, x: move(self.conv(x)), conv=nn.Conv2d(3, 4, 3)), images())
    found = nodes(program, target) or nodes(program, aten.pad.default)
    assert len(found) == 1
    assert encoding(found[0]) == encoding(found[0].args[0]) is not None


def test_an_average_over_whole_images_has_an_encoding_of_its_own() -> None:
    """Averages reach a fraction of what the pixels do: in the pixels' steps, little of them would be left."""
    torch.manual_seed(0)
    net = Net(lambda self, x: F.adaptive_avg_pool2d(self.conv(x), 1), conv=nn.Conv2d(3, 4, 3))
    program = compress(net, images())
    (mean,) = nodes(program, aten.mean.dim)
    before, after = encoding(mean.args[0]), encoding(mean)
    assert before is not None and after is not None
    assert after[0] < before[0] / 2
    parts = Net(lambda self, x: F.adaptive_avg_pool2d(self.conv(x), 2), conv=nn.Conv2d(3, 4, 3))
    (pool,) = nodes(compress(parts, images()), aten.adaptive_avg_pool2d.default)
    assert encoding(pool) == encoding(pool.args[0]) is not None


def test_padding_with_another_value_than_zero_is_not_forced_into_the_encoding() -> None:
    torch.manual_seed(0)
    net = Net(lambda self, x: F.pad(self.conv(x), (1, 1), value=1e4), conv=nn.Conv2d(3, 4, 3))
    program = compress(net, images())
    (pad,) = nodes(program, aten.constant_pad_nd.default) or nodes(program, aten.pad.default)
    assert encoding(pad) is None
    assert program.run(images()[0])["output_0"].max() == 1e4


# Transformers


def test_a_residual_stream_and_its_norms_stay_float() -> None:
    program = quantized("encoder")
    adds = nodes(program, aten.add.Tensor)
    assert len(adds) == 4  # positions, mask, two residual connections
    assert [encoding(add) for add in adds] == [None] * 4
    norms = nodes(program, aten.layer_norm.default) or [
        node for node in program.graph.nodes if "layer_norm" in str(node.target)
    ]
    assert len(norms) == 2
    for norm in norms:
        assert not is_quantized(norm.args[0]), "its input stays float"
    for softmax in nodes(program, aten.softmax.int):
        assert not is_quantized(softmax.args[0]), "scores stay float"


def test_every_product_of_the_encoder_reads_and_writes_integers() -> None:
    program = quantized("encoder")
    products = [*nodes(program, aten.linear.default), *nodes(program, aten.matmul.default)]
    assert len(products) == 7
    for product in products:
        assert all(is_quantized(arg) for arg in product.args[:2]), product
        assert encoding(product) is not None, product


def test_probabilities_that_are_spread_thin_keep_all_their_steps() -> None:
    model = Net(lambda self, x: (x @ x.transpose(1, 2) * 0.01).softmax(-1) @ x)
    batches = [{"x": torch.randn(1, 200, 16, generator=torch.Generator().manual_seed(0))}]
    program = compress(model, batches)
    (softmax,) = nodes(program, aten.softmax.int)
    scale, zero_point = encoding(softmax) or (0.0, 0)
    assert 0 < scale < 1 / 256 / 20
    assert zero_point == -128


def test_a_value_has_one_encoding_for_all_that_read_it() -> None:
    """A convolution in a chain lets the data choose among observers; a linear layer that wrote the value does not."""
    model = Net(
        lambda self, x: self.conv(self.dense(x).transpose(1, 2).unflatten(2, (4, 4))),
        dense=nn.Linear(8, 8),
        conv=nn.Conv2d(8, 8, 3, padding=1),
    )
    batches = [{"x": torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(0)) ** 3}]
    program = compress(model, batches, observer="best")
    (conv,) = nodes(program, aten.conv2d.default)
    read = conv.args[0]
    while read.target is not QUANTIZE:
        read = read.args[0]
    assert read.args[0].target is not DEQUANTIZE or read.args[1:3] == read.args[0].args[1:3]


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_softmax_of_integers_has_the_scale_that_runtimes_have_built_in(target: str, tmp_path: Path) -> None:
    """Nothing that computes stands between the product and the softmax, so runtimes make one kernel of it."""
    if not is_installed(target):
        pytest.skip(f"the runtime of {target} is not installed")
    model = Net(lambda self, x: (x @ x.transpose(1, 2) * 1.0).softmax(-1) @ x)
    batches = [{"x": 0.1 * torch.rand(1, 64, 8)} for _ in range(4)]
    original = ew.capture(model, batches[0])
    program = ew.compress(original, [{"pass": "quantize-static"}], batches=batches).program
    (softmax,) = nodes(program, aten.softmax.int)
    assert encoding(softmax) == (1 / 256, -128)
    artifact = ew.lower(program, target, tmp_path / target)
    assert ew.validate(artifact, program, batches, original=original).passed


# Ranges


def image(power: int = 1) -> list[Batch]:
    return [{"x": 4 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) ** power}]


@pytest.mark.parametrize(
    ("read", "low", "high"),
    [
        (F.hardswish, -3.0, None),
        (F.hardsigmoid, -3.0, 3.0),
        (lambda y: F.hardswish(y) * F.hardsigmoid(y), -3.0, None),
        (lambda y: F.hardswish(y) + y, None, None),
    ],
)
def test_a_range_ends_where_its_readers_stop_telling_values_apart(
    read: Callable[[Tensor], Tensor], low: float | None, high: float | None
) -> None:
    torch.manual_seed(0)
    net = Net(lambda self, x: read(self.conv(x)), conv=nn.Conv2d(3, 4, 1))
    program = compress(net, image())
    scale, zero_point = encoding(nodes(program, aten.conv2d.default)[0]) or (0.0, 0)
    least, greatest = scale * (-128 - zero_point), scale * (127 - zero_point)
    assert least == pytest.approx(-3.0, abs=0.05) if low else least < -3.5
    assert greatest == pytest.approx(3.0, abs=0.05) if high else greatest > 3.5


@pytest.mark.parametrize(
    ("read", "chosen"),
    [
        (lambda y: y.sigmoid(), "mse"),  # tails are lost behind it
        (lambda y: y * y * y * y, "minmax"),  # tails are all that is left
    ],
)
def test_the_data_decide_whether_ranges_clip(read: Callable[[Tensor], Tensor], chosen: str) -> None:
    torch.manual_seed(0)
    net = Net(lambda self, x: read(self.conv(x)), conv=nn.Conv2d(3, 4, 1))
    batches = image(power=3)
    found = {
        name: run_passes(capture(net, batches[0]), [QuantizeStatic(observer=name)], Context(batches))
        for name in ("best", "minmax", "mse")
    }
    digests = {name: result.program.digest() for name, result in found.items()}
    assert digests["minmax"] != digests["mse"]
    assert digests["best"] == digests[chosen]
    (sentence,) = found["best"].reports[0].report.decided
    decibels = {name: float(re.search(rf"([\d.]+) dB with {name}", sentence)[1]) for name in ("minmax", "mse")}  # type: ignore[index]
    assert sentence.startswith(chosen)
    assert decibels[chosen] == max(decibels.values())
    assert found["minmax"].reports[0].report.decided == ()


def test_where_nothing_is_convolved_ranges_hold_everything() -> None:
    batches = SMALL["encoder"].batches(4)
    programs = [
        run_passes(folded("encoder"), [QuantizeStatic(observer=name)], Context(batches)).program
        for name in ("best", "minmax")
    ]
    assert programs[0].digest() == programs[1].digest()


# Settings and refusals


def test_only_modules_of_the_pattern_are_quantized() -> None:
    context = Context(batches=SMALL["cnn"].batches(2))
    program = run_passes(folded("cnn"), [QuantizeStatic(modules="residual.*")], context).program
    layers = nodes(program, aten.conv2d.default)
    inside = {str(layer.args[1].args[0].target) for layer in layers if is_quantized(layer.args[1])}
    assert len(inside) == 2
    assert all(name.startswith("residual") for name in inside)
    assert not is_quantized(nodes(program, aten.linear.default)[0].args[1])


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_one() -> None:
    context = Context(batches=SMALL["cnn"].batches(1))
    with pytest.raises(RecipeError, match="the pattern matches no module") as caught:
        run_passes(folded("cnn"), [QuantizeStatic(modules="residua.*")], context)
    assert "got: 'residua.*'" in str(caught.value)
    assert "did you mean 'residual" in str(caught.value)


def test_missing_calibration_is_refused_with_a_way_out() -> None:
    with pytest.raises(CalibrationError, match="static quantization needs calibration data") as caught:
        run_passes(folded("mlp"), [QuantizeStatic()])
    assert "batches=" in str(caught.value)


def test_a_computed_weight_is_left_in_float_with_the_reason() -> None:
    net = Net(lambda self, x: F.conv2d(x, self.conv.weight * x.mean()), conv=nn.Conv2d(3, 4, 3, bias=False))
    program = capture(net, images()[0])
    report = run_passes(program, [QuantizeStatic()], Context(batches=images())).reports[0].report
    assert [skip.reason for skip in report.skips] == ["its weight is computed, not constant"]


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_left_in_float_with_the_reason(groups: int) -> None:
    net = Net(lambda self, x: self.up(x), up=nn.ConvTranspose2d(4, 4, 3, groups=groups))
    program = capture(net, images(channels=4)[0])
    report = run_passes(program, [QuantizeStatic()], Context(batches=images(channels=4))).reports[0].report
    assert ["transposed convolutions" in skip.reason for skip in report.skips] == [True]


@pytest.mark.parametrize("observer", OBSERVERS)
def test_two_runs_give_the_same_digest(observer: str) -> None:
    context = Context(batches=SMALL["two_inputs"].batches(4))
    digests = {
        run_passes(folded("two_inputs"), [QuantizeStatic(observer=observer)], context).program.digest()
        for _ in range(2)
    }
    assert len(digests) == 1


def test_other_calibration_data_give_other_encodings() -> None:
    batches = [{"x": batch["x"] * 3.0} for batch in SMALL["mlp"].batches(CALIBRATION)]
    other = run_passes(folded("mlp"), [QuantizeStatic(observer="minmax")], Context(batches=batches)).program
    first = nodes(other, QUANTIZE)[0].args[1]
    assert first == pytest.approx(3.0 * nodes(quantized("mlp"), QUANTIZE)[0].args[1], rel=1e-4)  # type: ignore[operator]


def test_quantized_weights_keep_the_names_of_the_model() -> None:
    found = {str(node.target) for node, tensor in quantized("mlp").constants() if tensor.dtype == torch.int8}
    assert found == {"layers_0_weight", "layers_2_weight", "layers_4_weight"}


def test_one_weight_of_two_layers_is_quantized_for_both() -> None:
    torch.manual_seed(0)
    net = Net(lambda self, x: self.conv(self.conv(x)), conv=nn.Conv2d(3, 3, 3))
    program = compress(net, images())
    assert all(is_quantized(layer.args[1]) for layer in nodes(program, aten.conv2d.default))
    assert len(nodes(program, aten.conv2d.default)) == 2


# Quality


@pytest.mark.parametrize("name", SMALL)
def test_the_small_models_keep_their_quality(name: str) -> None:
    batches = SMALL[name].batches(16, seed=77)  # not the calibration data
    before, after = (
        [{key: value.numpy() for key, value in program.run(batch).items()} for batch in batches]
        for program in (captured(name), quantized(name))
    )
    key = next(iter(before[0]))
    assert sqnr_by_output(before, after)[key] >= FLOORS_DB[name]


def test_an_integer_result_of_a_quantized_model_is_right() -> None:
    batches = SMALL["two_inputs"].batches(32, seed=5)
    agree = [
        bool(torch.equal(captured("two_inputs").run(batch)["best"], quantized("two_inputs").run(batch)["best"]))
        for batch in batches
    ]
    assert sum(agree) >= 31


def test_a_channel_of_zeros_and_a_constant_activation_stay_finite() -> None:
    torch.manual_seed(0)
    net = Net(lambda self, x: self.second(self.first(x) * 0.0), first=nn.Conv2d(3, 4, 3), second=nn.Conv2d(4, 5, 3))
    net.first.weight.data[1] = 0.0  # type: ignore[index, union-attr]
    net.second.weight.data[:] = 0.0  # type: ignore[index, union-attr]
    program = compress(net, images())
    for batch in images():
        result = program.run(batch)["output_0"]
        assert torch.isfinite(result).all()
        assert torch.allclose(result, net(batch["x"]), atol=0.02)
    for _, tensor in program.constants():
        if tensor.is_floating_point():
            assert torch.isfinite(tensor).all()


def test_a_constant_input_stays_finite() -> None:
    torch.manual_seed(0)
    net = Net(lambda self, x: self.conv(x), conv=nn.Conv2d(3, 4, 3))
    for value in (0.0, 5.0, -5.0):
        batches = [{"x": torch.full((1, 3, 8, 8), value)}]
        got, expected = compress(net, batches).run(batches[0])["output_0"], net(batches[0]["x"])
        assert torch.isfinite(got).all()
        assert torch.allclose(got, expected, atol=0.02 * max(1.0, expected.abs().max().item()))


def test_no_getitem_of_a_batch_norm_is_left_over() -> None:
    assert not nodes(quantized("cnn"), operator.getitem)


def test_weights_may_have_one_scale_each_and_activations_no_zero_point() -> None:
    context = Context(batches=SMALL["cnn"].batches(8))
    settings = QuantizeStatic(per_channel=False, symmetric=True)
    program = run_passes(folded("cnn"), [settings], context).program
    layers = [*nodes(program, aten.conv2d.default), *nodes(program, aten.linear.default)]
    assert {str(layer.args[1].target) for layer in layers} == {"quantized_decomposed.dequantize_per_tensor.default"}
    restored = nodes(program, DEQUANTIZE)
    assert {node.args[2] for node in restored} == {0}


@pytest.mark.parametrize("target", ["coreml", "onnx", "openvino", "tflite"])
@pytest.mark.parametrize("settings", [{"per_channel": False}, {"symmetric": True}], ids=str)
def test_the_other_forms_are_integers_on_every_target(target: str, settings: dict[str, bool], tmp_path: Path) -> None:
    model = SMALL["cnn"]
    recipe = [{"pass": "quantize", "scheme": "w8a8", **settings}]
    program = ew.compress(captured("cnn"), recipe, batches=model.batches(CALIBRATION)).program
    artifact = ew.lower(program, target=target, folder=tmp_path)
    verdict = ew.validate(artifact, reference=program, original=captured("cnn"), batches=model.batches(8, seed=3))
    assert verdict.passed
    assert get_target(target).inspect(artifact).low_precision_share == 1.0


def test_one_scale_for_all_channels_needs_the_layers_to_be_equalized() -> None:
    """A depthwise convolution whose channels differ a hundredfold, and matter alike behind the next layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.Conv2d(16, 8, 1)
    )
    spread = torch.logspace(-1, 1, 16)
    model[2].weight.data *= spread.reshape(-1, 1, 1, 1)
    model[2].bias.data *= spread
    model[4].weight.data /= spread.reshape(1, -1, 1, 1)
    batches = [{"input": image} for image in torch.rand(32, 1, 3, 10, 10)]
    program = ew.capture(model.eval(), batches[0])
    step = {"pass": "quantize", "scheme": "w8a8", "per_channel": False}
    found = [
        sqnr_db(
            outputs(program, batches).numpy(),
            outputs(ew.compress(program, recipe, batches=batches).program, batches).numpy(),
        )
        for recipe in ([step], [{"pass": "equalize-layers"}, step])
    ]
    assert found[1] > found[0] + 5


def test_few_bits_with_one_scale_for_all_are_refused() -> None:
    with pytest.raises(RecipeError, match="weights of few bits need a scale a channel"):
        ew.compress(captured("cnn"), [{"pass": "quantize", "scheme": "w4a8", "per_channel": False}])
