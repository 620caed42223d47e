"""Capture: a model becomes a flat, named, functional graph, or a refusal with its place and a way out."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.errors import CaptureError, CheckpointError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.handover import load_program, save_program
from edgewright.pipeline.passes.fold_batchnorm import FoldBatchnorm
from edgewright.pipeline.passes.runner import run_passes
from tests.small_models import SMALL, captured, quantized

X = torch.linspace(-1.0, 1.0, 8).reshape(2, 4)


def names(specs: tuple[Any, ...]) -> list[str]:
    return [spec.name for spec in specs]


def line_of(function: object, text: str) -> str:
    """file:line of the first line of `function` that holds `text`."""
    lines, first = inspect.getsourcelines(function)  # type: ignore[arg-type]
    place = next(place for place, line in enumerate(lines) if text in line)
    return f"{__file__}:{first + place}"


class Scaled(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first * 2.0 + second


class Nested(nn.Module):
    def forward(self, x: Tensor, extra: dict[str, Any]) -> Tensor:
        return x + extra["bias"] + extra["pair"][0] * extra["pair"][1]


class Returns(nn.Module):
    """Returns whatever `make` makes of x."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


# Inputs


@pytest.mark.parametrize("name", SMALL)
def test_captured_program_equals_the_model(name: str) -> None:
    model, program = SMALL[name].build(), captured(name)
    for batch in SMALL[name].batches(3, seed=5):
        expected = model(**batch)
        expected = {"output_0": expected} if isinstance(expected, Tensor) else expected
        expected = expected if isinstance(expected, dict) else vars(expected)
        got = program.run(batch)
        assert list(got) == list(expected)
        for key, value in expected.items():
            assert torch.equal(got[key], value)


def test_positional_inputs_get_the_names_of_the_arguments() -> None:
    program = capture(Scaled(), (X, X[:1]))
    assert [(spec.name, spec.shape, spec.dtype) for spec in program.inputs] == [
        ("first", (2, 4), "float32"),
        ("second", (1, 4), "float32"),
    ]


def test_a_single_tensor_counts_as_one_positional_input() -> None:
    assert names(capture(nn.ReLU(), X).inputs) == ["input"]


def test_dict_inputs_in_another_order_reach_their_own_arguments() -> None:
    program = capture(Scaled(), {"second": X[:1], "first": X})
    result = program.run({"first": X, "second": X[:1]})["output_0"]
    assert torch.equal(result, X * 2.0 + X[:1])
    assert [tuple(tensor.shape) for tensor in program.example] == [spec.shape for spec in program.inputs]


def test_nested_inputs_get_joined_names() -> None:
    program = capture(Nested(), (X, {"bias": X + 1, "pair": [X + 2, X + 3]}))
    assert names(program.inputs) == ["x", "extra_bias", "extra_pair_0", "extra_pair_1"]
    feed = dict(zip(names(program.inputs), (X, X + 1, X + 2, X + 3), strict=True))
    assert torch.equal(program.run(feed)["output_0"], X + (X + 1) + (X + 2) * (X + 3))


def test_keys_that_are_no_identifiers_become_names_that_every_format_takes() -> None:
    class Odd(nn.Module):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return batch["pixel values"] + batch["2nd-input"]

    program = capture(Odd(), ({"pixel values": X, "2nd-input": X},))
    assert names(program.inputs) == ["batch_pixel_values", "batch_2nd_input"]


def test_starred_arguments_are_numbered() -> None:
    class Starred(nn.Module):
        def forward(self, *xs: Tensor) -> Tensor:
            return xs[0] - xs[1]

    assert names(capture(Starred(), (X, X)).inputs) == ["xs_0", "xs_1"]


def test_constants_and_none_among_the_inputs_are_frozen_into_the_graph() -> None:
    class Optional(nn.Module):
        def forward(self, x: Tensor, factor: int, bias: Tensor | None = None) -> Tensor:
            return x * factor if bias is None else x + bias

    program = capture(Optional(), (X, 3, None))
    assert names(program.inputs) == ["x"]
    assert torch.equal(program.run({"x": X})["output_0"], X * 3)


def test_integer_inputs_keep_their_dtype() -> None:
    assert [spec.dtype for spec in captured("two_inputs").inputs] == ["float32", "int64"]


def test_two_inputs_of_one_name_are_refused() -> None:
    class Clash(nn.Module):
        def forward(self, a: dict[str, Tensor], a_b: Tensor) -> Tensor:
            return a["b"] + a_b

    with pytest.raises(CaptureError, match="a_b: two inputs get this name"):
        capture(Clash(), ({"b": X}, X))


def test_an_input_and_an_output_of_one_name_are_refused() -> None:
    with pytest.raises(CaptureError, match="x: an input and an output have this name"):
        capture(Returns(lambda x: {"x": x * 2}), (X,))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((X[:, :3], X[:, :2]), "size of tensor"),
        ((X,), "missing 1 required positional argument: 'second'"),
        ({"first": X, "secnod": X}, "unexpected keyword argument 'secnod'"),
    ],
)
def test_wrong_example_inputs_say_what_the_model_said(inputs: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message) as caught:
        capture(Scaled(), inputs)
    assert "check the names, shapes and dtypes of the example inputs" in str(caught.value)
    assert __file__ in str(caught.value)


def test_a_float_where_indices_belong_is_refused_at_the_users_line() -> None:
    inputs = {"features": torch.zeros(1, 48), "kind": torch.zeros(1)}
    with pytest.raises(CaptureError, match=r"small_models\.py:\d+, in forward"):
        capture(SMALL["two_inputs"].build(), inputs)


def test_capture_leaves_the_example_inputs_as_they_were() -> None:
    mine = X.clone()
    program = capture(Returns(lambda x: x.add_(1.0) * 2.0), (mine,))
    assert torch.equal(mine, X)
    again = X.clone()
    assert torch.equal(program.run({"x": again})["output_0"], (X + 1.0) * 2.0)
    assert torch.equal(again, X)


# Outputs


@dataclass
class Pair:
    low: Tensor
    high: Tensor


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: x + 1, ["output_0"]),
        (lambda x: (x + 1, x + 2), ["output_0", "output_1"]),
        (lambda x: [x + 1], ["output_0"]),
        (lambda x: {"b": x + 1, "a": x + 2}, ["b", "a"]),
        (lambda x: {"deep": {"a": x + 1, "l": [x + 2, x + 3]}}, ["deep_a", "deep_l_0", "deep_l_1"]),
        (lambda x: {"there": x + 1, "absent": None}, ["there"]),
        (lambda x: Pair(low=x - 1, high=x + 1), ["low", "high"]),
    ],
)
def test_outputs_get_the_names_of_what_is_returned(make: Any, expected: list[str]) -> None:
    assert names(capture(Returns(make), (X,)).outputs) == expected


def test_one_value_under_two_names_stays_two_outputs() -> None:
    def twice(x: Tensor) -> dict[str, Tensor]:
        y = x + 1
        return {"a": y, "b": y}

    result = capture(Returns(twice), (X,)).run({"x": X})
    assert torch.equal(result["a"], X + 1)
    assert torch.equal(result["b"], X + 1)


# The graph


def test_in_place_operations_are_gone() -> None:
    def overwrite(x: Tensor) -> Tensor:
        y = x.clone()
        y.add_(1.0)
        y[0] = 3.0
        return F.relu(y, inplace=True)

    program = capture(Returns(overwrite), (X,))
    operations = {node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    assert operations
    assert not [str(target) for target in operations if target._schema.is_mutable]
    assert torch.equal(program.run({"x": X})["output_0"], overwrite(X))


def test_weights_keep_the_names_that_they_have_in_the_model() -> None:
    found = {str(node.target) for node, _ in captured("cnn").constants()}
    assert {"stem.0.weight", "residual.0.1.running_var", "head.bias"} <= found


def test_padding_same_becomes_numbers_and_computes_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding="same"), nn.Conv2d(3, 2, 4, padding="same", dilation=(1, 2)))
    image = torch.randn(1, 2, 9, 9)
    program = capture(model, (image,))
    assert torch.ops.aten.conv2d.padding not in {node.target for node in program.graph.nodes}
    assert torch.allclose(program.run({"input": image})["output_0"], model(image), atol=1e-6)


def test_equal_weights_give_equal_digests() -> None:
    again = capture(SMALL["cnn"].build(), SMALL["cnn"].batches(1)[0])
    assert again.digest() == captured("cnn").digest()


def test_one_changed_weight_changes_the_digest() -> None:
    model = SMALL["cnn"].build()
    model.head.weight.data[3, 5] += 1e-6  # type: ignore[operator, union-attr]
    assert capture(model, SMALL["cnn"].batches(1)[0]).digest() != captured("cnn").digest()


def test_running_a_program_does_not_change_it() -> None:
    program = captured("encoder")
    before = program.digest()
    program.run(SMALL["encoder"].batches(1)[0])
    assert program.digest() == before


def test_editing_a_clone_leaves_the_original_alone() -> None:
    program = captured("cnn")
    before, batch = program.digest(), SMALL["cnn"].batches(1)[0]
    expected = program.run(batch)["logits"]
    clone = program.clone()
    assert clone.digest() == before
    FoldBatchnorm().run(clone, None)  # type: ignore[arg-type]
    clone.erase_dead()
    assert clone.digest() != before
    assert program.digest() == before
    assert torch.equal(program.run(batch)["logits"], expected)


def test_a_clone_shares_the_weights() -> None:
    program = captured("cnn")
    clone = program.clone()
    assert clone.tensors()["head.weight"] is program.tensors()["head.weight"]


# What cannot be one graph


def branch_on_data(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x
    return -x


def slice_by_item(x: Tensor) -> Tensor:
    size = int(x.max().item())
    return x[:size]


class ScaleByItem(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        factor = x.max().item()
        return x * factor


@pytest.mark.parametrize(
    ("make", "line", "way_out"),
    [(branch_on_data, "if x.sum()", "torch.where"), (slice_by_item, "x.max().item()", "tensor arithmetic")],
)
def test_control_flow_on_data_names_the_users_line_and_a_way_out(make: Any, line: str, way_out: str) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Returns(make), (X,))
    message = str(caught.value)
    file, number = line_of(make, line).rsplit(":", 1)
    assert f"{file}:{number}" in message or f"{file}:{int(number) + 1}" in message  # where the value is used
    assert way_out in message


def test_an_item_that_torch_export_lets_through_is_refused_at_the_users_line() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(ScaleByItem(), (X,))
    file, number = line_of(ScaleByItem, ".item()").rsplit(":", 1)
    assert f'File "{file}", line {number}' in str(caught.value)
    assert "use tensor arithmetic" in str(caught.value)


def dropped_always(x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, training=True)


def noisy(x: Tensor) -> Tensor:
    return x + torch.rand(x.shape)


def sampled(x: Tensor) -> Tensor:
    return torch.bernoulli(torch.sigmoid(x))


def rained_on(x: Tensor) -> Tensor:
    return x + torch.empty(4).normal_()


@pytest.mark.parametrize("make", [dropped_always, noisy, sampled, rained_on])
def test_random_operations_are_refused_at_the_users_line(make: Any) -> None:
    with pytest.raises(CaptureError, match=r"draws random numbers.*make them an input") as caught:
        capture(Returns(make), (X,))
    file, number = line_of(Returns, "self.make(x)").rsplit(":", 1)  # the innermost forward()
    assert f'File "{file}", line {number}' in str(caught.value)


def test_random_operations_that_are_switched_off_stay() -> None:
    def attends(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x[None], F.dropout(x, 0.5, training=False)[None], F.dropout(x, 0.0)[None])

    program = capture(Returns(attends), (X,))
    torch.testing.assert_close(program.run({"x": X})["output_0"], attends(X))


@pytest.mark.parametrize("layer", [nn.Embedding(9, 4, max_norm=1.0), nn.EmbeddingBag(9, 4, max_norm=1.0)])
def test_embeddings_that_clip_their_weights_as_they_run_are_refused(layer: nn.Module) -> None:
    with pytest.raises(CaptureError, match=r"max_norm changes the embedding's weights.*leave it out"):
        capture(layer.eval(), (torch.tensor([[1, 2]]),))


def found(x: Tensor) -> Tensor:
    return x.nonzero()


def masked(x: Tensor) -> Tensor:
    return x[x > 0]


@pytest.mark.parametrize("make", [found, masked])
def test_sizes_that_depend_on_values_are_refused_at_the_users_line(make: Any) -> None:
    with pytest.raises(CaptureError, match=r"depend on values.*torch\.where") as caught:
        capture(Returns(make), (X,))
    file, number = line_of(Returns, "self.make(x)").rsplit(":", 1)  # the innermost forward()
    assert f'File "{file}", line {number}' in str(caught.value)


def test_a_captured_branch_is_refused_with_a_way_out() -> None:
    def branches(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y * 2.0, lambda y: y * 3.0, (x,))

    with pytest.raises(CaptureError, match=r"control flow \(cond\).*torch\.where"):
        capture(Returns(branches), (X,))


def test_state_that_forward_changes_is_refused_all_at_once() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("total", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.total += x.sum()
            return x / self.calls

    with pytest.raises(CaptureError) as caught:
        capture(Counts(), (X,))
    assert "calls: forward() changes this buffer" in str(caught.value)
    assert "total: forward() changes this buffer" in str(caught.value)


# Weights


def test_weights_that_are_not_finite_are_refused_all_at_once() -> None:
    model = SMALL["cnn"].build()
    model.head.weight.data[2, 7] = torch.nan  # type: ignore[operator, union-attr]
    model.stem[0].weight.data[0, 0, 1, 1] = torch.inf  # type: ignore[index, union-attr]
    model.left[1].running_var[4] = torch.inf  # type: ignore[index, union-attr]
    with pytest.raises(CheckpointError) as caught:
        capture(model, SMALL["cnn"].batches(1)[0])
    message = str(caught.value)
    assert "head.weight has 1 (first at [2, 7])" in message
    assert "stem.0.weight has 1 (first at [0, 0, 1, 1])" in message
    assert "left.1.running_var has 1 (first at [4])" in message


class Masked(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((4, 4), value).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x + self.mask, -1)


def test_a_causal_mask_of_minus_infinity_is_no_broken_weight() -> None:
    scores = torch.zeros(4, 4)
    result = capture(Masked(-torch.inf), (scores,)).run({"x": scores})["output_0"]
    assert torch.equal(result[0], torch.tensor([1.0, 0.0, 0.0, 0.0]))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_buffer_of_infinity_or_nan_is_broken(value: float) -> None:
    with pytest.raises(CheckpointError, match=r"mask has \d+ \(first at \[0, "):
        capture(Masked(value), (torch.zeros(4, 4),))


# Files


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(SMALL["mlp"].build(), (), SMALL["mlp"].batches(1)[0]), path)
    return path


def test_a_pt2_file_without_trust_is_refused_and_says_how_to_allow_it(saved: Path) -> None:
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    with pytest.raises(CaptureError, match="loading one can execute code") as caught:
        capture(saved)
    assert f"--trust-input sha256:{digest}" in str(caught.value)


def test_a_pt2_file_with_another_digest_is_refused(saved: Path) -> None:
    with pytest.raises(CaptureError, match="got: --trust-input sha256:00"):
        capture(saved, trust_input="sha256:" + "0" * 64)


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_a_trusted_pt2_file_is_the_same_program(saved: Path, prefix: str) -> None:
    program = capture(saved, trust_input=prefix + hashlib.sha256(saved.read_bytes()).hexdigest())
    batch = SMALL["mlp"].batches(1, seed=9)[0]
    assert names(program.inputs) == ["x"]
    assert torch.equal(program.run(batch)["output_0"], captured("mlp").run(batch)["output_0"])


def test_a_damaged_pt2_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"no archive")
    with pytest.raises(CaptureError, match=r"the \.pt2 file cannot be loaded"):
        capture(path, trust_input=hashlib.sha256(b"no archive").hexdigest())


def test_a_missing_pt2_file_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="does not exist") as caught:
        capture(tmp_path / "absent.pt2")
    assert "absent.pt2" in str(caught.value)


@pytest.mark.parametrize("name", ["cnn", "encoder", "two_inputs"])
def test_a_quantized_program_survives_saving(name: str, tmp_path: Path) -> None:
    program = quantized(name)
    save_program(program, tmp_path / "program.pt2")
    loaded = load_program(tmp_path / "program.pt2", program.inputs, program.outputs)
    assert loaded.weight_bytes() == program.weight_bytes()
    for batch in SMALL[name].batches(3, seed=4):
        expected, got = program.run(batch), loaded.run(batch)
        for key in expected:
            assert torch.equal(got[key], expected[key])


def test_a_loaded_program_passes_through_an_idle_pass(tmp_path: Path) -> None:
    """What loading leaves dead in the graph is not counted against the next pass."""
    program = quantized("encoder")
    save_program(program, tmp_path / "program.pt2")
    loaded = load_program(tmp_path / "program.pt2", program.inputs, program.outputs)
    assert run_passes(loaded, [FoldBatchnorm()]).reports[0].report.rewrites == 0


def test_open_sizes_of_a_pt2_file_are_refused_with_a_way_out(tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    rows = torch.export.Dim("rows", min=1, max=8)
    torch.export.save(torch.export.export(nn.ReLU(), (torch.ones(2, 3),), dynamic_shapes=({0: rows},)), file)
    with pytest.raises(CaptureError, match=r"has fixed shapes here\n  got: open sizes: s\d+"):
        capture(file, trust_input=hashlib.sha256(file.read_bytes()).hexdigest())


def test_a_trusted_pt2_file_with_nan_weights_is_refused_by_name(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[1, 2] = float("nan")
    file = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(model, (torch.ones(1, 3),)), file)
    with pytest.raises(CheckpointError, match="weight"):
        capture(file, trust_input=hashlib.sha256(file.read_bytes()).hexdigest())
