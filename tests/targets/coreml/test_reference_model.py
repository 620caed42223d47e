"""The interpreter as a whole: its table against coremltools' registry, loading, inputs, converted models."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from reference_programs import Array, mb, normal, run, save, sqnr_db
from torch import nn

from edgewright.errors import TargetError
from edgewright.targets.coreml.reference import ReferenceModel
from edgewright.targets.coreml.reference.loading import OPSETS
from edgewright.targets.coreml.reference.registry import KERNELS, LIMITS, REFUSED

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::RuntimeWarning", "ignore::torch.jit.TracerWarning"
)

BY_LOADER = {"const"}
"""Operations that a builder turns into values."""


def test_every_operation_of_coremltools_is_run_or_refused() -> None:
    known = set(SSAOpRegistry.core_ops) | {"coreml_update_state"}
    assert known == set(KERNELS) | set(REFUSED) | BY_LOADER
    assert not set(KERNELS) & set(REFUSED)
    assert set(LIMITS) <= set(KERNELS)
    assert all(REFUSED.values())


@pytest.mark.parametrize("op", sorted(set(KERNELS) - {"coreml_update_state"}))
def test_every_function_takes_the_inputs_of_every_version(op: str) -> None:
    """An input that some version states and its function lacks would fail at run time only."""
    takes = set(KERNELS[op].takes)
    for version in set(SSAOpRegistry.core_ops[op].values()):
        stated = {name for name in version.input_spec.input_types if not name.startswith("_")}
        assert stated - takes <= ({"bias"} if op == "conv_quantized" else set()), f"{op} of {version.__module__}"


def test_opsets_are_those_of_coremltools() -> None:
    written = {name: version for version, name in ct._OPSET.items() if name in OPSETS}
    assert {name: ct.target(written[name]).name for name in OPSETS} == {
        name: f"iOS{version}" for name, version in OPSETS.items()
    }


def test_all_refused_operations_are_named_at_once(tmp_path: Path) -> None:
    def build(x: object) -> object:
        shape = mb.shape(x=x)
        noise = mb.add(x=mb.random_normal(shape=shape), y=mb.random_normal(shape=shape))
        return mb.add(x=x, y=mb.mul(x=noise, y=mb.random_bernoulli(shape=shape)))

    with pytest.raises(TargetError) as error:
        ReferenceModel.load(save(build, {"x": normal(2, 3)}, tmp_path))
    assert "random_bernoulli (1): its values are random" in str(error.value)
    assert "random_normal (2): its values are random" in str(error.value)
    assert "what to do" in str(error.value)


def test_refused_operation_in_a_branch_is_named(tmp_path: Path) -> None:
    def build(x: object) -> object:
        return mb.cond(
            pred=mb.cast(x=mb.reduce_sum(x=x), dtype="bool"),
            _true_fn=lambda: mb.random_normal(shape=np.array([1, 2, 3], np.int32)),
            _false_fn=lambda: mb.local_response_norm(x=x, size=2),
        )

    path = save(build, {"x": normal(2, 3)[None]}, tmp_path)
    with pytest.raises(TargetError, match=r"random_normal \(1\): its values are random"):
        ReferenceModel.load(path)


def test_operation_out_of_limits_in_a_branch_is_named(tmp_path: Path) -> None:
    def build(x: object) -> object:
        return mb.cond(
            pred=mb.cast(x=mb.reduce_sum(x=x), dtype="bool"),
            _true_fn=lambda: mb.relu(x=x),
            _false_fn=lambda: mb.local_response_norm(x=x, size=2),
        )

    with pytest.raises(TargetError, match=r"local_response_norm .*an even size"):
        ReferenceModel.load(save(build, {"x": normal(1, 2, 3)}, tmp_path))


def test_operation_without_a_function_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(lambda x: mb.relu(x=mb.tanh(x=x)), {"x": normal(2, 3)}, tmp_path)
    for name in ("relu", "tanh"):
        monkeypatch.delitem(KERNELS, name)
    with pytest.raises(TargetError, match=r"(?s)relu \(1\): an operation that it does not know.*tanh \(1\)"):
        ReferenceModel.load(path)


def test_unknown_opset_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(lambda x: mb.relu(x=x), {"x": normal(2, 3)}, tmp_path)
    monkeypatch.delitem(OPSETS, "CoreML8")
    with pytest.raises(TargetError, match="opset CoreML8: known are CoreML5, CoreML6, CoreML7"):
        ReferenceModel.load(path)


def test_neural_network_is_refused(tmp_path: Path) -> None:
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder

    builder = NeuralNetworkBuilder([("x", datatypes.Array(3))], [("y", datatypes.Array(3))])
    builder.add_activation("relu", "RELU", "x", "y")
    path = tmp_path / "model.mlpackage"
    ct.models.MLModel(builder.spec, skip_model_load=True).save(str(path))
    with pytest.raises(TargetError, match=r"(?s)ML programs only.*got: neuralNetwork"):
        ReferenceModel.load(path)


def test_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"there is no \.mlpackage"):
        ReferenceModel.load(tmp_path / "none.mlpackage")


@pytest.fixture
def adder(tmp_path: Path) -> ReferenceModel:
    inputs = {"left": normal(2, 3), "right": np.ones((2, 3), np.int32)}
    return ReferenceModel.load(
        save(lambda left, right: mb.add(x=left, y=mb.cast(x=right, dtype="fp32"), name="sum"), inputs, tmp_path)
    )


def test_model_tells_its_inputs_and_outputs(adder: ReferenceModel) -> None:
    assert adder.input_specs == {
        "left": ((2, 3), np.dtype(np.float32)),
        "right": ((2, 3), np.dtype(np.int32)),
    }
    assert adder.output_names == ("sum",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"letf": normal(2, 3)}, "an unknown input\n  got: letf\n  what to do: did you mean 'left'?"),
        ({"left": None}, "inputs are missing"),
        ({"left": normal(3, 2)}, "another shape\n  got: (3, 2)\n  expected: (2, 3)\n  where: left"),
        ({"right": normal(2, 3)}, "another kind of dtype\n  got: float32\n  expected: int32\n  where: right"),
    ],
)
def test_input_that_does_not_fit_is_refused(adder: ReferenceModel, changes: Any, message: str) -> None:
    inputs = {"left": normal(2, 3), "right": np.ones((2, 3), np.int32), **changes}
    with pytest.raises(TargetError) as error:
        adder.run({name: value for name, value in inputs.items() if value is not None})
    assert message in str(error.value)


def test_integer_that_does_not_fit_is_refused(adder: ReferenceModel) -> None:
    with pytest.raises(TargetError, match="an input holds numbers that its dtype cannot"):
        adder.run({"left": normal(2, 3), "right": np.full((2, 3), 2**40)})


def test_wider_inputs_of_the_same_kind_are_taken(adder: ReferenceModel) -> None:
    (total,) = adder.run({"left": normal(2, 3).astype(np.float64), "right": np.ones((2, 3), np.int64)}).values()
    np.testing.assert_allclose(total, normal(2, 3) + 1)


def test_trace_gives_every_value_in_its_own_dtype(tmp_path: Path) -> None:
    def build(x: object) -> object:
        halved = mb.mul(x=mb.cast(x=x, dtype="fp16", name="narrow"), y=np.float16(0.5), name="halved")
        return mb.cast(x=halved, dtype="fp32", name="wide")

    values = ReferenceModel.load(save(build, {"x": normal(2, 3)}, tmp_path)).trace({"x": normal(2, 3)})
    assert {name: value.dtype for name, value in values.items()} == {
        "narrow": np.float16,
        "halved": np.float16,
        "wide": np.float32,
    }
    np.testing.assert_array_equal(values["wide"], values["halved"].astype(np.float32))


def test_dead_values_are_freed(tmp_path: Path) -> None:
    """Of a chain of 40 values, no more than one and the next live at once."""

    def build(x: object) -> object:
        for _ in range(40):
            x = mb.add(x=x, y=np.float32(1))
        return x

    x = np.zeros((1024, 256), np.float32)
    model = ReferenceModel.load(save(build, {"x": x}, tmp_path))
    seen: list[weakref.ref[object]] = []
    alive: list[int] = []

    def observe(name: str, value: object) -> None:
        seen.append(weakref.ref(value))
        alive.append(sum(each() is not None for each in seen))

    model._run({"x": x}, None, observe)
    assert len(alive) == 40
    assert max(alive) <= 2


def test_outputs_do_not_share_memory_with_constants_or_inputs(tmp_path: Path) -> None:
    model = ReferenceModel.load(save(lambda x: mb.identity(x=x), {"x": normal(2, 3)}, tmp_path))
    x = normal(2, 3)
    (y,) = model.run({"x": x}).values()
    y[:] = 0
    np.testing.assert_array_equal(x, normal(2, 3))


def test_flexible_dimension_takes_any_size(tmp_path: Path) -> None:
    traced = torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3))
    shape = (ct.RangeDim(1, 8), 3)
    converted = ct.convert(
        traced,
        inputs=[ct.TensorType("x", shape=shape)],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    converted.save(str(tmp_path / "model.mlpackage"))
    model = ReferenceModel.load(tmp_path / "model.mlpackage")
    assert model.input_specs["x"][0] == (-1, 3)
    for rows in (1, 5):
        (y,) = model.run({"x": normal(rows, 3)}).values()
        np.testing.assert_allclose(y, traced(torch.from_numpy(normal(rows, 3))).detach(), rtol=1e-5, atol=1e-6)


def test_package_of_several_functions_runs_its_default(tmp_path: Path) -> None:
    weight, x = normal(16, 16), normal(2, 16)
    functions = {
        "plain": lambda x: mb.linear(x=x, weight=weight),
        "curved": lambda x: mb.tanh(x=mb.linear(x=x, weight=weight)),
    }
    together = ct.utils.MultiFunctionDescriptor()
    for name, build in functions.items():
        (tmp_path / name).mkdir()
        together.add_function(str(save(build, {"x": x}, tmp_path / name)), "main", name)
    together.default_function_name = "curved"
    ct.utils.save_multifunction(together, str(tmp_path / "both.mlpackage"))
    (actual,) = ReferenceModel.load(tmp_path / "both.mlpackage").run({"x": x}).values()
    np.testing.assert_allclose(actual, np.tanh(x @ weight.T), rtol=1e-5, atol=1e-6)


class Convolutional(nn.Module):
    """Depthwise and grouped convolutions, hard swish, pools, a transposed convolution, a resize."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.ReLU6(),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.Conv2d(8, 12, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(12, 8, 4, 2, 1),
            nn.GroupNorm(2, 8),
        )
        self.head = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(self.stem(x))
        y = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(torch.cat([x, y[:, :, ::2, 1::2]], 1))


class Encoder(nn.Module):
    """Embeddings with positions, masked attention, layer norms and a tanh pooler, as BERT has them."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions, self.norm = nn.Embedding(50, 16), nn.Embedding(12, 16), nn.LayerNorm(16)
        self.register_buffer("places", torch.arange(12)[None])
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.wide, self.narrow, self.last = nn.Linear(16, 32), nn.Linear(32, 16), nn.LayerNorm(16)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.tokens(ids) + self.positions(self.places))
        q, k, v = (layer(x).reshape(2, 12, 2, 8).transpose(1, 2) for layer in (self.query, self.key, self.value))
        bias = (1.0 - mask[:, None, None].float()) * -10000.0
        attended = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5 + bias, -1) @ v
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return torch.tanh(self.last(x + self.narrow(nn.functional.gelu(self.wide(x))))[:, 0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(10, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(self.lstm(x)[0])[0]


IMAGE = (normal(2, 3, 24, 24),)
TEXT = (
    np.arange(24, dtype=np.int32).reshape(2, 12) % 50,
    np.repeat([[1, 0]], [9, 3], 1).repeat(2, 0).astype(np.int32),
)
SERIES = (normal(2, 7, 6),)


def converted(model: nn.Module, inputs: tuple[Array, ...], target: str, precision: str, folder: Path) -> ReferenceModel:
    example = tuple(torch.from_numpy(each) for each in inputs)
    mlmodel = ct.convert(
        torch.jit.trace(model, example),
        inputs=[ct.TensorType(f"x{at}", each.shape, each.dtype) for at, each in enumerate(inputs)],
        minimum_deployment_target=ct.target[target],
        compute_precision=ct.precision[precision],
        skip_model_load=True,
    )
    mlmodel.save(str(folder / "model.mlpackage"))
    return ReferenceModel.load(folder / "model.mlpackage")


@pytest.mark.parametrize(("precision", "least_db"), [("FLOAT32", 100.0), ("FLOAT16", 50.0)])
@pytest.mark.parametrize("target", ["iOS15", "iOS17", "iOS18"])
@pytest.mark.parametrize(
    ("network", "inputs"),
    [(Convolutional, IMAGE), (Encoder, TEXT), (Recurrent, SERIES)],
    ids=["cnn", "text", "rnn"],
)
def test_converted_model_equals_torch(
    network: type[nn.Module], inputs: Any, target: str, precision: str, least_db: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = network().eval()
    expected = model(*(torch.from_numpy(each) for each in inputs)).detach().numpy()
    loaded = converted(model, inputs, target, precision, tmp_path)
    (actual,) = loaded.run(dict(zip(loaded.input_specs, inputs, strict=True))).values()
    assert sqnr_db(actual, expected) >= least_db


@pytest.mark.parametrize("target", ["iOS17", "iOS18"])
def test_exported_program_equals_torch(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, (x,) = Convolutional().eval(), IMAGE
    expected = model(torch.from_numpy(x)).detach().numpy()
    exported = torch.export.export(model, (torch.from_numpy(x),)).run_decompositions({})
    mlmodel = ct.convert(
        exported,
        minimum_deployment_target=ct.target[target],
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    mlmodel.save(str(tmp_path / "model.mlpackage"))
    (actual,) = ReferenceModel.load(tmp_path / "model.mlpackage").run({"x": x}).values()
    assert sqnr_db(actual, expected) >= 100


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_compressed_weights_equal_coremltools_decompressed(bits: str, tmp_path: Path) -> None:
    """The package with compressed weights, against the same package that coremltools decompressed."""
    import coremltools.optimize as cto

    torch.manual_seed(0)
    model, (x,) = Convolutional().eval(), IMAGE
    model(torch.from_numpy(x))
    mlmodel = ct.convert(
        torch.jit.trace(model, torch.from_numpy(x)),
        inputs=[ct.TensorType("x", x.shape)],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    config = cto.coreml.OptimizationConfig(
        cto.coreml.OpLinearQuantizerConfig(dtype=bits, granularity="per_channel", weight_threshold=0)
    )
    compressed = cto.coreml.linear_quantize_weights(mlmodel, config)
    outputs = []
    for name, each in (("compressed", compressed), ("dense", cto.coreml.decompress_weights(compressed))):
        each.save(str(tmp_path / f"{name}.mlpackage"))
        (output,) = ReferenceModel.load(tmp_path / f"{name}.mlpackage").run({"x": x}).values()
        outputs.append(output)
    assert sqnr_db(*outputs) >= 100
    assert sqnr_db(outputs[0], model(torch.from_numpy(x)).detach().numpy()) < 60


def test_missing_weights_are_a_target_error(tmp_path: Path) -> None:
    weight = normal(64, 64)
    path = save(lambda x: mb.linear(x=x, weight=weight), {"x": normal(2, 64)}, tmp_path)
    (file,) = path.rglob("weight.bin")
    file.unlink()
    with pytest.raises(TargetError, match="coremltools cannot read the package back"):
        ReferenceModel.load(path)


def test_loader_failure_is_a_target_error(tmp_path: Path) -> None:
    """coremltools writes a dimension of unknown rank, and cannot read it back."""

    def build(shape: object) -> object:
        return mb.fill(shape=mb.range_1d(start=1, end=mb.squeeze(x=shape), step=1), value=1.0)

    with pytest.raises(TargetError, match="coremltools cannot read the package back: Variadic"):
        run(build, {"shape": np.array([4], np.int32)}, tmp_path)
