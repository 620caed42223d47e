"""Quantization-aware training: its gradients, its graph, its results, its checkpoint, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.fx import GraphModule

import edgewright as ew
from edgewright.errors import CalibrationError, RecipeError, ReleaseError, TrainingError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.metrics import sqnr_by_output
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.learned_scales import LearnedScale, learn_scales
from edgewright.pipeline.passes.observe_values import PerChannelObserver, PerTensorObserver
from edgewright.pipeline.passes.quantize_static import QuantizeStatic, quantize_activations
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.passes.train_quantized import TrainQuantized
from edgewright.pipeline.program import Program
from edgewright.pipeline.recipe import build_passes
from edgewright.pipeline.training import Training
from edgewright.pipeline.training.place import CPU, place
from tests.small_models import SMALL, Batch, captured, folded

aten, q = torch.ops.aten, torch.ops.quantized_decomposed


def observer(values: Tensor, axis: int | None = None, low: int = -128, high: int = 127) -> PerTensorObserver:
    settings: dict[str, Any] = {"dtype": torch.int8, "quant_min": low, "quant_max": high}
    if axis is None:
        made = PerTensorObserver(qscheme=torch.per_tensor_affine, **settings)
    else:
        made = PerChannelObserver(qscheme=torch.per_channel_symmetric, ch_axis=axis, **settings)
    made(values)
    return made


def trained(name: str, batches: int = 8, context: Context | None = None, **settings: Any) -> Program:
    context = context or Context(SMALL[name].batches(batches))
    step = TrainQuantized(**{"steps": 12, "batch_size": 4, **settings})
    return run_passes(folded(name), [step], context).program


def static(name: str, batches: int = 8, **settings: Any) -> Program:
    return run_passes(folded(name), [QuantizeStatic(**settings)], Context(SMALL[name].batches(batches))).program


def quality_db(name: str, program: Program) -> float:
    batches = SMALL[name].batches(16, seed=21)
    found = sqnr_by_output(
        [arrays(captured(name).run(batch)) for batch in batches], [arrays(program.run(batch)) for batch in batches]
    )
    return min(found[spec.name] for spec in captured(name).outputs if spec.dtype == "float32")


def arrays(outputs: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in outputs.items()}


# Gradients


def test_the_gradients_of_a_tensors_scale_and_values_are_the_papers() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(1000, generator=generator) * 3.0 - 1.0
    rounding = LearnedScale(observer(seen), learns=True)
    values = (torch.randn(1000, generator=generator) * 2.0).requires_grad_()
    upstream = torch.randn(1000, generator=generator)
    rounded = rounding(values)
    rounded.backward(upstream)

    scale, zero_point = float(rounding.scale.detach()), int(rounding.zero_point)
    assert -128 < zero_point < 0, "where PyTorch's own kernel is a step off"
    encoding = (scale, zero_point, -128, 127, torch.int8)
    stored = q.dequantize_per_tensor(q.quantize_per_tensor(values.detach(), *encoding), *encoding)
    assert torch.equal(rounded.detach(), stored)
    steps = values.detach() / scale
    low, high = -128 - zero_point, 127 - zero_point
    inside = (steps.round() >= low) & (steps.round() <= high)
    assert 100 < int(inside.sum()) < 900
    slope = torch.where(inside, steps.round() - steps, torch.where(steps < 0, low, high))
    torch.testing.assert_close(values.grad, upstream * inside)
    assert rounding.growth.grad is not None
    torch.testing.assert_close(rounding.growth.grad, (scale * upstream * slope).sum()[None], rtol=1e-4, atol=1e-4)


def test_each_channel_has_the_gradient_of_its_own_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 2, generator=generator)
    rounding = LearnedScale(observer(weight * 0.5, axis=1, low=-7, high=7), learns=True)
    upstream = torch.randn(5, 3, 2, generator=generator)
    rounding(weight.requires_grad_()).backward(upstream)

    scale = rounding.scale.detach()[None, :, None]
    steps = weight.detach() / scale
    slope = torch.where(steps.round().abs() <= 7, steps.round() - steps, 7 * steps.sign())
    assert rounding.growth.grad is not None
    torch.testing.assert_close(rounding.growth.grad, (scale * upstream * slope).sum((0, 2)), rtol=1e-5, atol=1e-5)


def test_a_weight_rounded_once_for_several_samples_has_the_sum_of_their_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 4, generator=generator)
    samples = torch.randn(3, 4, generator=generator)

    def gradients(*, held: bool) -> list[Tensor]:
        rounding, own = (
            LearnedScale(observer(weight, axis=0, low=-7, high=7), learns=True),
            nn.Parameter(weight.clone()),
        )
        if held:
            rounding.hold(own)
        for sample in samples:
            (rounding(own) @ sample).square().sum().backward()
        if held:
            rounding.release()
        assert own.grad is not None and rounding.growth.grad is not None
        return [own.grad, rounding.growth.grad]

    for found, wanted in zip(gradients(held=True), gradients(held=False), strict=True):
        assert float(wanted.abs().max()) > 0
        torch.testing.assert_close(found, wanted)


def test_the_scale_starts_as_calibrated_to_the_last_bit() -> None:
    made = observer(torch.randn(64, 8, generator=torch.Generator().manual_seed(3)), axis=0)
    scale, zero_point = LearnedScale(made, learns=True).calculate_qparams()
    assert torch.equal(scale, made.calculate_qparams()[0])
    assert torch.equal(zero_point, made.calculate_qparams()[1])


# The graph


@pytest.mark.parametrize("name", SMALL)
def test_the_graph_is_that_of_static_quantization_with_other_numbers(name: str) -> None:
    before, after = static(name, 2, weight_bits=4), trained(name, 2, weight_bits=4, steps=2)
    assert [node.target for node in before.graph.nodes] == [node.target for node in after.graph.nodes]
    assert after.weight_bytes() == before.weight_bytes()
    assert after.digest() != before.digest()


@pytest.mark.parametrize("name", ["cnn", "encoder"])
def test_the_converted_graph_computes_what_training_saw(name: str) -> None:
    batch = SMALL[name].batches(1, seed=5)[0]
    seen: list[Tensor] = []

    def adjust(prepared: GraphModule, observers: Sequence[PerTensorObserver]) -> tuple[()]:
        place(prepared, CPU)
        for number, growth in enumerate(learn_scales(prepared, lambda node: True, CPU).values()):
            growth.data += 0.01 * (number % 7 - 3)
        with torch.no_grad():
            seen.extend(prepared(*(batch[spec.name] for spec in folded(name).inputs)))
        return ()

    program = folded(name).clone()
    quantize_activations(program, Context(SMALL[name].batches(4)), QuantizeStatic(weight_bits=4), adjust)
    for found, wanted in zip(program.run(batch).values(), seen, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def prepared_of(name: str, train: Callable[[GraphModule], None]) -> None:
    def adjust(prepared: GraphModule, observers: Sequence[PerTensorObserver]) -> tuple[()]:
        train(prepared)
        return ()

    quantize_activations(folded(name).clone(), Context(SMALL[name].batches(2)), QuantizeStatic(), adjust)


def test_a_shared_encoding_stays_shared_and_a_softmax_keeps_its_zero_point() -> None:
    def look(prepared: GraphModule) -> None:
        learned = learn_scales(prepared, lambda node: True, CPU)
        (cat,) = prepared.graph.find_nodes(op="call_function", target=aten.cat.default)
        around = [*cat.args[0], *cat.users]
        assert len({id(prepared.get_submodule(str(node.target))) for node in around}) == 1
        scales = {id(part) for part in prepared.modules() if isinstance(part, LearnedScale)}
        assert len(learned) == len(scales)

    def look_at_softmax(prepared: GraphModule) -> None:
        learned = learn_scales(prepared, lambda node: True, CPU)
        (softmax,) = prepared.graph.find_nodes(op="call_function", target=aten.softmax.int)
        (reader,) = softmax.users
        scale = prepared.get_submodule(str(reader.target))
        assert isinstance(scale, LearnedScale)
        assert int(scale.zero_point) == -128
        assert any(scale.growth is growth for growth in learned.values())

    prepared_of("cnn", look)
    prepared_of("encoder", look_at_softmax)


def test_zero_points_stay() -> None:
    def zero_points(program: Program) -> list[Any]:
        return [
            node.args[2] for node in program.graph.find_nodes(op="call_function", target=q.quantize_per_tensor.default)
        ]

    assert zero_points(trained("cnn", 2, steps=2)) == zero_points(static("cnn", 2))


def test_the_callers_program_is_untouched() -> None:
    program = folded("mlp")
    before = program.digest()
    trained("mlp")
    assert program.digest() == before
    assert all(tensor.grad is None for tensor in program.tensors().values())
    assert {tensor.device.type for tensor in program.tensors().values()} == {"cpu"}


def test_modules_that_do_not_train_are_as_static_quantization_leaves_them() -> None:
    before, after = static("mlp", weight_bits=4), trained("mlp", weight_bits=4, trained="layers.4")
    changed = {
        name for name, tensor in after.tensors().items() if not torch.equal(tensor, before.tensors().get(name, tensor))
    }
    assert changed
    assert all("layers_4" in name or "layers.4" in name for name in changed), changed


def test_a_tied_weight_stays_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 32)
            self.dense = nn.Linear(32, 32)

        def forward(self, tokens: Tensor) -> Tensor:
            return F.linear(self.dense(self.embed(tokens)), self.embed.weight)

    torch.manual_seed(0)
    batches = [{"tokens": torch.randint(0, 20, (1, 6))} for _ in range(4)]
    program = capture(Tied().eval(), batches[0])
    result = run_passes(program, [TrainQuantized(steps=4, batch_size=2)], Context(batches)).program
    lookup = result.graph.find_nodes(op="call_function", target=aten.embedding.default)[0]
    product = result.graph.find_nodes(op="call_function", target=aten.linear.default)[-1]
    table = lookup.args[0].target(*(torch.fx.node.map_arg(lookup.args[0].args, result.tensor)))
    weight = product.args[1].target(*(torch.fx.node.map_arg(product.args[1].args, result.tensor)))
    torch.testing.assert_close(table, weight, rtol=0, atol=float(table.abs().max()) / 100)


# Results


def test_training_wins_back_what_four_bits_lost() -> None:
    plain = static("cnn", 32, weight_bits=4)
    learned = trained("cnn", 32, weight_bits=4, steps=30, batch_size=8)
    assert quality_db("cnn", learned) > quality_db("cnn", plain) + 3.0


def test_a_loss_of_the_users_own_decides_what_is_learned() -> None:
    batches = SMALL["mlp"].batches(16)
    data = [{**batch, "label": torch.tensor([number % 8])} for number, batch in enumerate(batches)]

    def loss(outputs: Any, sample: Any) -> Tensor:
        return F.cross_entropy(outputs["output_0"], sample["label"])

    recipe = [{"pass": "quantize", "scheme": "w4a8", "training": True, "steps": 40, "learning_rate": 0.2}]
    result = ew.compress(captured("mlp"), recipe, batches=batches, training=Training(data, loss))
    right = sum(int(result.program.run(sample)["output_0"].argmax()) == int(sample["label"]) for sample in data)
    before = sum(int(captured("mlp").run(sample)["output_0"].argmax()) == int(sample["label"]) for sample in data)
    assert before < 8 < right, "arbitrary labels, learned by heart"


def test_a_loss_that_does_not_fall_is_said() -> None:
    def flat(outputs: Any, sample: Any) -> Tensor:
        return outputs["output_0"].sum() * 0.0 + 1.0

    step = TrainQuantized(steps=4, batch_size=2)
    context = Context(SMALL["mlp"].batches(4), training=Training(loss=flat))
    (ran,) = run_passes(folded("mlp"), [step], context).reports
    assert any(caution.text == "the loss did not fall: 1 at first, 1 at last" for caution in ran.report.warnings)


def test_the_same_seed_gives_the_same_program_and_another_seed_another() -> None:
    first, again, other = (
        trained("mlp", context=Context(SMALL["mlp"].batches(8), seed=seed)).digest() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


# The checkpoint


def checkpointed(path: Path, stop_at: int | None = None, **settings: Any) -> Program:
    def progress(message: str) -> None:
        if stop_at and message.startswith(f"training: step {stop_at + 50} "):
            raise KeyboardInterrupt

    context = Context(SMALL["mlp"].batches(8), training=Training(checkpoint=path), progress=progress)
    return trained("mlp", context=context, **{"steps": 120, "batch_size": 2, **settings})


def test_a_stopped_training_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = checkpointed(tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        checkpointed(tmp_path / "parts.safetensors", stop_at=50)
    steps: list[str] = []
    context = Context(
        SMALL["mlp"].batches(8), training=Training(checkpoint=tmp_path / "parts.safetensors"), progress=steps.append
    )
    resumed = trained("mlp", context=context, steps=120, batch_size=2)
    assert [step.split(",")[0] for step in steps] == ["training: step 100 of 120", "training: step 120 of 120"]
    assert resumed.digest() == whole.digest()
    assert resumed.digest() == trained("mlp", steps=120, batch_size=2).digest()
    whole_state, state = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert state.keys() == whole_state.keys()
    assert all(torch.equal(tensor, whole_state[name]) for name, tensor in state.items())


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first = checkpointed(tmp_path / "kept.safetensors", steps=50)

    def fails(outputs: Any, sample: Any) -> Tensor:
        raise AssertionError("no step is left")

    context = Context(SMALL["mlp"].batches(8), training=Training(checkpoint=tmp_path / "kept.safetensors"))
    assert trained("mlp", context=context, steps=50, batch_size=2).digest() == first.digest()
    with pytest.raises(TrainingError, match="the training checkpoint is of other settings"):
        trained(
            "mlp",
            context=dataclasses.replace(context, training=dataclasses.replace(context.training, loss=fails)),
            steps=50,
            batch_size=2,
        )


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    checkpointed(path, steps=50)
    training = Training(checkpoint=path)
    with pytest.raises(TrainingError, match="is of other settings") as caught:
        checkpointed(path, steps=51)
    assert "delete the file" in str(caught.value)
    with pytest.raises(TrainingError, match="is of other data"):
        trained("mlp", context=Context(SMALL["mlp"].batches(9), training=training), steps=50, batch_size=2)
    with pytest.raises(TrainingError, match="is of another program"):
        trained("two_inputs", context=Context(SMALL["two_inputs"].batches(8), training=training))
    with pytest.raises(TrainingError, match="there is no such folder"):
        checkpointed(tmp_path / "missing" / "kept.safetensors")
    path.write_bytes(b"nothing of use")
    with pytest.raises(TrainingError, match="the training checkpoint cannot be read"):
        checkpointed(path)


# Refusals


def with_loss(loss: Callable[[Any, Any], Any]) -> Context:
    return Context(SMALL["mlp"].batches(4), training=Training(loss=loss))


def test_a_loss_that_is_none_is_refused() -> None:
    with pytest.raises(TrainingError, match="the loss is no scalar") as caught:
        trained("mlp", context=with_loss(lambda outputs, sample: outputs["output_0"]))
    assert "[1, 8]" in str(caught.value)
    with pytest.raises(TrainingError, match="the loss is no scalar"):
        trained("mlp", context=with_loss(lambda outputs, sample: 1.0))
    with pytest.raises(TrainingError, match="the loss has no gradient"):
        trained("mlp", context=with_loss(lambda outputs, sample: outputs["output_0"].detach().sum()))
    with pytest.raises(ReleaseError, match=r"training\.loss raised an error") as error:
        trained("mlp", context=with_loss(lambda outputs, sample: sample["label"].sum()))
    assert "KeyError: 'label'" in str(error.value)


def test_a_loss_that_becomes_nan_names_the_step() -> None:
    calls: list[int] = []

    def loss(outputs: Any, sample: Any) -> Tensor:
        calls.append(1)
        return outputs["output_0"].square().mean() * (float("nan") if len(calls) == 11 else 1.0)

    with pytest.raises(TrainingError, match="training diverged at step 3"):
        trained("mlp", context=with_loss(loss), batch_size=4)


def test_a_gradient_that_is_not_finite_names_the_step() -> None:
    def loss(outputs: Any, sample: Any) -> Tensor:
        return (outputs["output_0"].sum() * 0.0).sqrt()

    with pytest.raises(TrainingError, match="training diverged at step 1"):
        trained("mlp", context=with_loss(loss))


def test_a_teacher_without_anything_to_teach_is_refused() -> None:
    class Largest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.dense(x).argmax(1)

    batches = [{"x": torch.ones(1, 8)}]
    with pytest.raises(TrainingError, match="no output to learn from"):
        run_passes(capture(Largest(), batches[0]), [TrainQuantized()], Context(batches))


def test_training_without_data_is_refused() -> None:
    with pytest.raises(CalibrationError, match="needs calibration data"):
        trained("mlp", context=Context())


def test_samples_are_checked_before_training() -> None:
    recipe = [{"pass": "quantize", "scheme": "w8a8", "training": True}]
    with pytest.raises(CalibrationError, match="other names than the model's inputs") as caught:
        ew.compress(
            captured("mlp"), recipe, batches=SMALL["mlp"].batches(2), training=Training([{"y": torch.ones(1, 64)}])
        )
    assert "x" in str(caught.value)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(TrainingError, match="no such device") as caught:
        trained("mlp", device="cudda")
    assert "cpu" in str(caught.value)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"weight_bits": 9}])
def test_settings_out_of_their_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"out of its range|no such number of bits"):
        TrainQuantized(**settings)


def test_a_graph_moves_to_a_device_as_a_whole() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.dense(x) + torch.arange(8, dtype=torch.float32) * torch.tensor([2.0])

    program = capture(Positions(), {"x": torch.ones(2, 8)})
    moved = program.clone()
    place(moved.module, torch.device("meta"))
    (result,) = moved.module(torch.ones(2, 8, device="meta"))
    assert result.device.type == "meta"
    assert program.run({"x": torch.ones(2, 8)})["output_0"].device.type == "cpu"


# Recipes


def test_training_stands_where_static_quantization_does() -> None:
    plain = [step.name for step in build_passes([{"pass": "quantize", "scheme": "w4a8"}])]
    steps = build_passes([{"pass": "quantize", "scheme": "w4a8", "training": True, "steps": 7, "modules": "head"}])
    assert [step.name for step in steps] == [name.replace("quantize-static", "train-quantized") for name in plain]
    (step,) = [step for step in steps if isinstance(step, TrainQuantized)]
    assert (step.weight_bits, step.steps, step.modules) == (4, 7, "head")


def test_two_steps_that_quantize_activations_are_refused_whether_they_train_or_not() -> None:
    recipe: list[dict[str, Any]] = [
        {"pass": "quantize", "scheme": "w8a8", "modules": "a"},
        {"pass": "quantize", "scheme": "w8a8", "training": True, "modules": "b"},
    ]
    with pytest.raises(RecipeError, match="two steps quantize activations"):
        build_passes(recipe)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"scheme": "w4", "training": True}, "this scheme has no training"),
        ({"scheme": "w8a8", "training": "yes"}, "training has the wrong type"),
        ({"scheme": "w4a8", "weight_bits": 3}, "the scheme says this already"),
        ({"scheme": "w8a8", "training": True, "epochs": 3}, "no such setting"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_passes([{"pass": "quantize", **entry}])


def test_batches_with_labels_reach_the_loss_of_a_compression() -> None:
    seen: list[Batch] = []

    def loss(outputs: Any, sample: Any) -> Tensor:
        seen.append(sample)
        return outputs["output_0"].square().mean()

    data = [{"x": torch.full((1, 64), 0.5), "label": [3, 4]}]
    recipe = [{"pass": "quantize", "scheme": "w8a8", "training": True, "steps": 1}]
    ew.compress(captured("mlp"), recipe, batches=SMALL["mlp"].batches(2), training=Training(data, loss))
    assert [sample["label"].tolist() for sample in seen] == [[3, 4]]
