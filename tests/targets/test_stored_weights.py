"""Weights of few bits in each format: stored at their size, and computing what the graph does."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import edgewright as ew
from edgewright.errors import TargetError
from edgewright.pipeline.lowering import refuse_schemes
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.stored_integers import stored_weights
from edgewright.pipeline.program import Program
from edgewright.targets import get_target, require_runtime
from tests.small_models import SMALL, Tied, captured

SCHEMES = ("w8", "w4", "w4g32", "w2g32")
TARGETS = ("coreml", "onnx", "openvino", "tflite")
PAIRS = [
    (target, scheme) for target in TARGETS for scheme in SCHEMES if scheme in get_target(target).capabilities.schemes
]
ROUNDED_ACTIVATIONS_DB = 27.0  # where a runtime's kernel for weights of few bits rounds activations, too


@cache
def compressed(model: str, scheme: str) -> Program:
    return ew.compress(captured(model), [{"pass": "quantize", "scheme": scheme}]).program


def skip_without(target: str) -> None:
    try:
        require_runtime(get_target(target))
    except TargetError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("model", ["encoder", "cnn"])
@pytest.mark.parametrize(("target", "scheme"), PAIRS)
def test_the_file_stores_the_integers_and_computes_the_graph(
    target: str, scheme: str, model: str, tmp_path: Path
) -> None:
    skip_without(target)
    program = compressed(model, scheme)
    artifact = ew.lower(program, target, tmp_path)
    inspection = get_target(target).inspect(artifact)
    found = inspection.bytes_by_dtype
    if scheme == "w8":
        assert inspection.low_precision_share == 0, "arithmetic is float"
    stated = program.weight_bytes()
    assert sum(found.values()) <= 1.1 * sum(stated.values()) + 20_000
    integers = ("int2", "uint2", "int4", "int8")
    assert sum(found.get(name, 0) for name in integers) >= sum(stated.get(name, 0) for name in integers) > 0
    if scheme.startswith("w4"):
        assert found["int4"] > 0
    if scheme == "w2g32":
        assert found["uint2" if target == "openvino" else "int2"] > 0
    batches = SMALL[model].batches(4, seed=5)
    with ew.open(artifact) as session:
        for batch in batches:
            got = session.run({name: value.numpy() for name, value in batch.items()})
            for name, value in program.run(batch).items():
                if value.is_floating_point():
                    floor = 80.0 if scheme == "w8" or target == "coreml" else ROUNDED_ACTIVATIONS_DB
                    reached = sqnr_db(value.numpy(), got[name])
                    assert reached > floor, name
                    if (target, model, scheme) == ("openvino", "encoder", "w2g32"):
                        rounds = inspection.low_precision_share > 0.5
                        assert rounds == (reached < 80.0), "what is said to be in integers rounds activations"


@cache
def signed(scheme: str) -> Program:
    recipe = [{"pass": "quantize", "scheme": scheme, "signed_scales": True}]
    return ew.compress(captured("encoder"), recipe).program


@pytest.mark.parametrize(("target", "scheme"), [pair for pair in PAIRS if pair[1] != "w8"])
def test_scales_below_0_are_computed_as_in_the_graph_or_refused(target: str, scheme: str, tmp_path: Path) -> None:
    skip_without(target)
    program = signed(scheme)
    assert all(bool((stored.scales < 0).any()) for stored in stored_weights(program))
    if target == "tflite":  # XNNPACK: "unsupported scale value"
        with pytest.raises(TargetError, match=r"no kernels for weights with scales below 0 .*signed_scales = false"):
            ew.lower(program, target, tmp_path)
        return
    batch = SMALL["encoder"].batches(1, seed=5)[0]
    floor = 80.0 if target == "coreml" else ROUNDED_ACTIVATIONS_DB
    with ew.open(ew.lower(program, target, tmp_path)) as session:
        got = session.run({name: value.numpy() for name, value in batch.items()})
    assert all(sqnr_db(value.numpy(), got[name]) > floor for name, value in program.run(batch).items())


@pytest.mark.parametrize("target", ["onnx", "openvino", "tflite"])
def test_scales_of_groups_are_stored_in_16_bits_and_restored_exactly(target: str, tmp_path: Path) -> None:
    skip_without(target)
    program = compressed("encoder", "w4g32")
    scales = sum(stored.scales.numel() for stored in stored_weights(program))
    artifact = ew.lower(program, target, tmp_path)
    found = get_target(target).inspect(artifact).bytes_by_dtype
    looked_up = 50 * 128 // 32 if target == "tflite" else 0  # LiteRT has no table of float16
    assert found["float16"] == 2 * (scales - looked_up)


def test_openvino_multiplies_weights_with_scales_of_float16_in_their_packed_form(tmp_path: Path) -> None:
    skip_without("openvino")
    inspection = get_target("openvino").inspect(ew.lower(compressed("encoder", "w4g32"), "openvino", tmp_path))
    assert inspection.executed is not None
    assert not [step for step in inspection.executed if step.op == "Convert" and "scale" in step.name]
    products = [step for step in inspection.executed if step.op == "FullyConnected"]
    assert len(products) == 5 and {step.compute for step in products} == {"int8"}


@pytest.mark.parametrize("target", TARGETS)
def test_convolutions_alone_are_stored_at_4_bits(target: str, tmp_path: Path) -> None:
    skip_without(target)
    recipe = [{"pass": "quantize", "scheme": "w4", "modules": "@convolution"}]
    program = ew.compress(captured("cnn"), recipe).program
    found = get_target(target).inspect(ew.lower(program, target, tmp_path)).bytes_by_dtype
    assert found["int4"] >= program.weight_bytes()["int4"]
    assert "int8" not in found


@pytest.mark.parametrize(("target", "runtime"), [("onnx", "onnxruntime==1.17"), ("coreml", "iOS==17")])
def test_an_older_runtime_is_refused_weights_of_few_bits(target: str, runtime: str, tmp_path: Path) -> None:
    skip_without(target)
    with pytest.raises(TargetError, match=r"came with .*name a newer runtime"):
        ew.lower(compressed("encoder", "w4g32"), target, tmp_path, minimum=runtime)
    ew.lower(compressed("encoder", "w8"), target, tmp_path, minimum=runtime)


@pytest.mark.parametrize(
    ("target", "runtime", "first"),
    [("onnx", "onnxruntime==1.23", "onnxruntime 1.24"), ("openvino", "openvino==2025.3", "openvino 2026.4")],
)
def test_an_older_runtime_is_refused_weights_of_two_bits(target: str, runtime: str, first: str, tmp_path: Path) -> None:
    skip_without(target)
    with pytest.raises(TargetError, match=rf"(?s)2 bits.*{first}"):
        ew.lower(compressed("encoder", "w2g32"), target, tmp_path, minimum=runtime)
    ew.lower(compressed("encoder", "w4g32"), target, tmp_path, minimum=runtime)


def test_an_openvino_file_with_two_bits_states_constants_that_older_releases_lack(tmp_path: Path) -> None:
    """2024.1 to 2025.2 would open it and compute nonsense; the constants of opset 16 came with 2026.0."""
    skip_without("openvino")
    text = ew.lower(compressed("encoder", "w2g32"), "openvino", tmp_path).main.read_text()
    versions = re.findall(r'type="Const" version="(\w+)"><data element_type="u2"', text)
    assert versions and set(versions) == {"opset16"}
    assert text.count('"u2"') >= len(versions)
    assert get_target("openvino").inspect(get_target("openvino").find(tmp_path)).minimum == {"openvino": "2026.4"}


@pytest.mark.parametrize("target", ["coreml", "tflite", "executorch"])
def test_two_bits_in_groups_are_refused_with_the_nearest_scheme(target: str) -> None:
    nearest = "'w4g32', the nearest" if target != "executorch" else "one of"
    with pytest.raises(TargetError, match=f"no native form of w2g32(?s:.*){nearest}"):
        refuse_schemes(get_target(target), ["w2g32"])


@pytest.mark.parametrize("target", ["onnx", "coreml", "tflite"])
def test_a_file_states_the_runtime_that_its_weights_need(target: str, tmp_path: Path) -> None:
    skip_without(target)
    found = [
        get_target(target).inspect(ew.lower(compressed("encoder", scheme), target, tmp_path / scheme)).minimum
        for scheme in ("w8", "w4", "w4g32", "w2g32")
        if (target, scheme) in PAIRS
    ]
    assert (
        found
        == {
            "onnx": [{"onnxruntime": version} for version in ("1.17", "1.20", "1.20", "1.24")],
            "coreml": [{"iOS": "17", "macOS": "14"}, *[{"iOS": "18", "macOS": "15"}] * 2],
            "tflite": [{"tflite": "2.14"}, {"ai-edge-litert": "1.0.1"}, {"ai-edge-litert": "2.1.0"}],
        }[target]
    )


@pytest.mark.parametrize(("target", "scheme"), [pair for pair in PAIRS if pair[1] in ("w4g32", "w2g32")])
def test_the_same_program_gives_the_same_bytes(target: str, scheme: str, tmp_path: Path) -> None:
    skip_without(target)
    program = compressed("encoder", scheme)
    files = [ew.lower(program, target, tmp_path / name).files for name in ("one", "two")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


@pytest.mark.parametrize("group", [0, 32])
def test_six_bits_are_whole_bytes_in_tflite_and_refused_in_groups(group: int, tmp_path: Path) -> None:
    skip_without("tflite")
    recipe = [{"pass": "quantize-weights", "bits": 6, "group": group}]
    program = ew.compress(captured("encoder"), recipe).program
    if group:
        with pytest.raises(TargetError, match="no groups of more than 4 bits; leave the groups out"):
            ew.lower(program, "tflite", tmp_path)
        return
    batch = SMALL["encoder"].batches(1, seed=5)[0]
    with ew.open(ew.lower(program, "tflite", tmp_path)) as session:
        got = session.run({name: value.numpy() for name, value in batch.items()})
    assert all(sqnr_db(value.numpy(), got[name]) > 80 for name, value in program.run(batch).items())


@pytest.mark.parametrize(("target", "scheme"), PAIRS)
def test_a_table_that_is_looked_up_and_multiplied_is_right_in_both(target: str, scheme: str, tmp_path: Path) -> None:
    skip_without(target)
    torch.manual_seed(0)
    tokens = torch.randint(0, 96, (1, 9))
    program = ew.compress(ew.capture(Tied().eval(), (tokens,)), [{"pass": "quantize", "scheme": scheme}]).program
    artifact = ew.lower(program, target, tmp_path)
    if scheme == "w8":
        stored = get_target(target).inspect(artifact).bytes_by_dtype["int8"]
        assert stored < 96 * 64 + 64 * 64 + 500, "the table is there once"
    with ew.open(artifact) as session:
        got = session.run({"tokens": tokens.numpy()})["output_0"]
    assert sqnr_db(program.run({"tokens": tokens})["output_0"].numpy(), got) > ROUNDED_ACTIVATIONS_DB


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "over three axes": (nn.Sequential(nn.Conv3d(4, 16, 3), nn.ReLU(), nn.Conv3d(16, 8, 3)), (1, 4, 8, 8, 8)),
    "transposed": (
        nn.Sequential(nn.ConvTranspose2d(16, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 16, 3, 1, 1)),
        (1, 16, 8, 8),
    ),
    "over one axis": (nn.Sequential(nn.Conv1d(16, 32, 3), nn.ReLU(), nn.ConvTranspose1d(32, 16, 3)), (1, 16, 40)),
    "beside a norm": (nn.Sequential(nn.BatchNorm2d(16), nn.Conv2d(16, 32, 3), nn.GroupNorm(4, 32)), (1, 16, 12, 12)),
}


@pytest.mark.parametrize("scheme", ["w8", "w4", "fp16"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("target", ["onnx", "openvino", "tflite"])
def test_convolutions_of_every_kind_compute_the_graph(target: str, name: str, scheme: str, tmp_path: Path) -> None:
    skip_without(target)
    torch.manual_seed(0)
    layers, shape = LAYERS[name]
    x = torch.randn(shape)
    program = ew.compress(ew.capture(layers.eval(), (x,)), [{"pass": "quantize", "scheme": scheme}]).program
    artifact = ew.lower(program, target, tmp_path)
    stated, found = program.weight_bytes(), get_target(target).inspect(artifact).bytes_by_dtype
    stored = "float16" if scheme == "fp16" else "int8" if scheme == "w8" else "int4"
    assert found[stored] == stated[stored] > 0
    with ew.open(artifact) as session:
        (got,) = session.run({program.inputs[0].name: x.numpy()}).values()
    (wanted,) = program.run({program.inputs[0].name: x}).values()
    assert sqnr_db(wanted.numpy(), got) > 110
