"""Rows rounded at run time, in each format: in integers, stored at their size, and as good as the graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgewright as ew
from edgewright.errors import TargetError
from edgewright.pipeline.low_precision import low_precision_share
from edgewright.pipeline.lowering import refuse_schemes
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.program import Program
from edgewright.pipeline.shapes import Dim
from edgewright.targets import get_target, require_runtime
from edgewright.targets.base import Artifact
from tests.small_models import SMALL, Tied, captured
from tests.small_release import deliver, result_of, run_command, write_release

SCHEME = "w8a8-dynamic"
RECIPE = [{"pass": "quantize", "scheme": SCHEME}]
TARGETS = ("executorch", "onnx", "openvino", "tflite")


@cache
def compressed(model: str) -> Program:
    return ew.compress(captured(model), RECIPE).program


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if name == "executorch" else ()) for name in TARGETS])
def target(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    try:
        require_runtime(get_target(name))
    except TargetError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Artifact]:
    return cache(
        lambda target, model: ew.lower(compressed(model), target, tmp_path_factory.mktemp(f"{target}-{model}"))
    )


@pytest.mark.parametrize("model", ["encoder", "mlp"])
def test_layers_run_in_integers_and_are_as_good_as_the_graph(
    target: str, model: str, lowered: Callable[[str, str], Artifact]
) -> None:
    program, original, artifact = compressed(model), captured(model), lowered(target, model)
    inspection = get_target(target).inspect(artifact)
    assert inspection.low_precision_share >= 0.99 * low_precision_share(program)
    stated = program.weight_bytes()
    assert inspection.bytes_by_dtype["int8"] >= stated["int8"]
    assert sum(inspection.bytes_by_dtype.values()) <= 1.1 * sum(stated.values()) + 20_000
    key = next(spec.name for spec in program.outputs if spec.dtype == "float32")
    batches = SMALL[model].batches(30, seed=5)
    with ew.open(artifact) as session:
        outputs = [session.run({name: value.numpy() for name, value in batch.items()})[key] for batch in batches]
    found = np.concatenate(outputs)
    exact, graph = (np.concatenate([made.run(batch)[key].numpy() for batch in batches]) for made in (original, program))
    assert sqnr_db(exact, found) >= sqnr_db(exact, graph) - 1.0
    assert sqnr_db(graph, found) > 50, "the same integers but for a few"


def test_no_calibrated_range_can_be_left(target: str, lowered: Callable[[str, str], Artifact]) -> None:
    """What grows a thousandfold loses nothing: the scales follow."""
    artifact = lowered(target, "mlp")
    (batch,) = SMALL["mlp"].batches(1, seed=5)
    x = batch["x"] * 1000
    with ew.open(artifact) as session:
        found = session.run({"x": x.numpy()})["output_0"]
        zeros = session.run({"x": np.zeros((1, 64), np.float32)})["output_0"]
    assert sqnr_db(captured("mlp").run({"x": x})["output_0"].numpy(), found) > 33
    assert sqnr_db(captured("mlp").run({"x": torch.zeros(1, 64)})["output_0"].numpy(), zeros) > 33


def test_a_table_that_is_looked_up_and_multiplied_is_right_in_both(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 96, (1, 9))
    program = ew.compress(ew.capture(Tied().eval(), (tokens,)), RECIPE).program
    artifact = ew.lower(program, target, tmp_path)
    inspection = get_target(target).inspect(artifact)
    copies = 2 if target == "executorch" else 1  # XNNPACK keeps its layers' weights to itself
    assert inspection.bytes_by_dtype["int8"] < copies * 96 * 64 + 64 * 64 + 500
    assert inspection.low_precision_share == 1
    with ew.open(artifact) as session:
        got = session.run({"tokens": tokens.numpy()})["output_0"]
    assert sqnr_db(program.run({"tokens": tokens})["output_0"].numpy(), got) > 50


def test_the_same_program_gives_the_same_bytes(
    target: str, lowered: Callable[[str, str], Artifact], tmp_path: Path
) -> None:
    files = [made.files for made in (lowered(target, "mlp"), ew.lower(compressed("mlp"), target, tmp_path))]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


@pytest.mark.parametrize("name", ["onnx", "openvino", "tflite"])
def test_open_sizes_keep_their_rows_apart(name: str, tmp_path: Path) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 8)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": self.down(F.relu(self.up(x)))}

    torch.manual_seed(0)
    model = Rows().eval()
    program = ew.capture(model, {"x": torch.randn(2, 32)}, {"x": {0: Dim("batch", 1, 3, (1, 3))}})
    program = ew.compress(program, RECIPE).program
    with ew.open(ew.lower(program, name, tmp_path)) as session:
        for batch in (1, 3):
            x = (
                torch.randn(batch, 32, generator=torch.Generator().manual_seed(batch))
                * torch.tensor([[1.0], [100.0], [0.01]])[:batch]
            )
            got, expected = session.run({"x": x.numpy()})["scores"], program.run({"x": x})["scores"].numpy()
            assert got.shape == (batch, 8)
            assert all(sqnr_db(right, row) > 45 for right, row in zip(expected, got, strict=True))


@pytest.mark.parametrize("name", ["onnx", "openvino", "tflite"])
def test_static_dynamic_and_weight_only_layers_lie_in_one_file(name: str, tmp_path: Path) -> None:
    steps = [("w8a8", "block*"), (SCHEME, "project"), ("w8", "embed")]
    recipe = [{"pass": "quantize", "scheme": scheme, "modules": modules} for scheme, modules in steps]
    program = ew.compress(captured("encoder"), recipe, batches=SMALL["encoder"].batches(8)).program
    artifact = ew.lower(program, name, tmp_path)
    assert get_target(name).inspect(artifact).low_precision_share >= 0.95 * low_precision_share(program) > 0.9
    (batch,) = SMALL["encoder"].batches(1, seed=5)
    exact, graph = (made.run(batch)["embedding"].numpy() for made in (captured("encoder"), program))
    with ew.open(artifact) as session:
        found = session.run({"tokens": batch["tokens"].numpy()})["embedding"]
    assert sqnr_db(exact, found) >= sqnr_db(exact, graph) - 1.0


@pytest.mark.parametrize("name", ["onnx", "openvino", "tflite"])
def test_a_layer_between_static_ones_is_rounded_as_it_comes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 32)
    layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    recipe = [{"pass": "quantize", "scheme": SCHEME, "modules": "2"}, {"pass": "quantize", "scheme": "w8a8"}]
    program = ew.compress(ew.capture(layers, (x,)), recipe, batches=[(x,)]).program
    (spec,) = program.inputs
    with ew.open(ew.lower(program, name, tmp_path)) as session:
        (found,) = session.run({spec.name: x.numpy()}).values()
    (wanted,) = program.run({spec.name: x}).values()
    assert sqnr_db(wanted.numpy(), found) > 40, "a value or two one step off"


@pytest.mark.parametrize(
    ("name", "minimum"), [("coreml", None), ("coreml", "iOS==18"), ("tflite", "tflite-runtime==2.14.0")]
)
def test_who_has_no_such_layers_names_weights_of_8_bits(name: str, minimum: str | None, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"no native form of w8a8-dynamic\s+expected: 'w8', the nearest"):
        refuse_schemes(get_target(name, minimum), [SCHEME])
    with pytest.raises(TargetError, match=r"scales found at run time .*compress with 'w8' instead"):
        ew.lower(compressed("mlp"), name, tmp_path, minimum=minimum)


def test_a_tflite_file_states_the_first_release_that_computes_it_right(tmp_path: Path) -> None:
    """tflite-runtime 2.14 opens a file with an older operator version, and gives 0 dB."""
    artifact = ew.lower(compressed("mlp"), "tflite", tmp_path, minimum="ai-edge-litert==1.0.1")
    assert get_target("tflite").inspect(artifact).minimum == {"tflite": "2.17"}


CONVOLUTIONS = [{"pass": "quantize", "scheme": SCHEME, "convolutions": True}]


class Picture(nn.Module):
    """Strides, paddings, groups, single pixels, single channels, one weight with two strides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 5, stride=2, padding=2)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4, bias=False)
        self.pixels = nn.Conv2d(32, 48, 1)
        self.even = nn.Conv2d(48, 32, 3, padding=1)
        self.head = nn.Linear(48, 10)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.stem(image))
        x = x + F.hardswish(self.depthwise(x))
        pooled = F.conv2d(x, self.pixels.weight, self.pixels.bias, stride=2).mean((2, 3))
        x = F.relu6(self.pixels(self.grouped(x)))
        return {"scores": self.head(x.mean((2, 3)) + pooled), "map": self.even(x)}


@cache
def pictures(count: int) -> tuple[Program, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(count, 3, 18, 18) * torch.tensor([1.0, 30.0])[:count].view(-1, 1, 1, 1)
    return ew.compress(ew.capture(Picture().eval(), {"image": images}), CONVOLUTIONS).program, images


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("delegated", [True, False], ids=["XNNPACK", "plain kernels"])
def test_tflite_rounds_what_convolutions_read_as_the_graph_does(count: int, delegated: bool, tmp_path: Path) -> None:
    """Each image by itself, padding and all; single pixels as the linear layer that they are."""
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    program, images = pictures(count)
    artifact = ew.lower(program, "tflite", tmp_path)
    resolver = "BUILTIN_WITHOUT_DEFAULT_DELEGATES" if not delegated else "AUTO"
    chosen = getattr(interpreters.OpResolverType, resolver)
    interpreter = interpreters.Interpreter(str(artifact.main), experimental_op_resolver_type=chosen, num_threads=1)
    found = interpreter.get_signature_runner()(image=images.numpy())
    for key, expected in program.run({"image": images}).items():
        for image, wanted in zip(found[key], expected.numpy(), strict=True):
            assert sqnr_db(wanted, image) > 50, "the same integers but for a few"


def test_tflite_computes_rounded_convolutions_in_integers(tmp_path: Path) -> None:
    program, _ = pictures(2)
    inspection = get_target("tflite").inspect(ew.lower(program, "tflite", tmp_path))
    computed = sorted((step.op, step.compute) for step in inspection.operations if step.macs)
    integer = [("CONV_2D", "int8")] * 4 + [("FULLY_CONNECTED", "int8")] * 2
    assert computed == [*integer[:4], ("DEPTHWISE_CONV_2D", "float32"), *integer[4:]]
    assert inspection.low_precision_share == pytest.approx(low_precision_share(program))
    stated = program.weight_bytes()["int8"]
    assert stated <= inspection.bytes_by_dtype["int8"] < 1.02 * stated, "one weight with two strides is stored once"


def test_open_sizes_keep_their_images_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1)).eval()
    sizes = {0: Dim("batch", 1, 3, (1, 3)), 2: Dim("height", 8, 16, (8, 16))}
    program = ew.compress(ew.capture(model, (torch.randn(2, 3, 12, 8),), (sizes,)), CONVOLUTIONS).program
    with ew.open(ew.lower(program, "tflite", tmp_path)) as session:
        for batch, height in ((1, 16), (3, 8)):
            x = torch.randn(batch, 3, height, 8, generator=torch.Generator().manual_seed(batch))
            x *= torch.tensor([1.0, 100.0, 0.01])[:batch].view(-1, 1, 1, 1)
            expected, found = (
                program.run({"input": x})["output_0"].numpy(),
                session.run({"input": x.numpy()})["output_0"],
            )
            assert all(sqnr_db(wanted, image) > 50 for wanted, image in zip(expected, found, strict=True))


def test_tflite_rounds_again_what_a_static_layer_gives(tmp_path: Path) -> None:
    recipe = [{**CONVOLUTIONS[0], "modules": "residual.*"}, {"pass": "quantize", "scheme": "w8a8"}]
    program = ew.compress(captured("cnn"), recipe, batches=SMALL["cnn"].batches(8)).program
    artifact = ew.lower(program, "tflite", tmp_path)
    assert get_target("tflite").inspect(artifact).low_precision_share == low_precision_share(program) == 1
    with ew.open(artifact) as session:
        for batch in SMALL["cnn"].batches(4, seed=5):
            found = session.run({"image": batch["image"].numpy()})["logits"]
            assert sqnr_db(program.run(batch)["logits"].numpy(), found) > 40


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_who_has_no_kernels_for_rounded_convolutions_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"no kernels for convolutions of activations .*convolutions = false"):
        ew.lower(pictures(1)[0], name, tmp_path)


@pytest.mark.slow
def test_a_release_states_the_integers_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the workers, which read the program from a file; the share of integers is a check of its own."""
    compress = f'[[compress]]\npass = "quantize"\nscheme = "{SCHEME}"\n'
    release = write_release(tmp_path / "release", deliveries=deliver("onnx") + deliver("tflite"), compress=compress)
    assert run_command("export", release.file, "--out", tmp_path / "out") == 0, capsys.readouterr().err
    for delivery in result_of(tmp_path / "out")["deliveries"]:
        assert delivery["status"] == "passed"
        assert delivery["low_precision_share"]["value"] > 0.9
        assert {"low-precision share"} <= {check["name"] for check in delivery["checks"]}
        assert run_command("verify", tmp_path / "out" / delivery["package"]) == 0
    refused = write_release(tmp_path / "refused", deliveries=deliver("coreml"), compress=compress)
    assert run_command("export", refused.file, "--out", tmp_path / "none") == 2
    assert "'w8', the nearest that it has" in capsys.readouterr().err
