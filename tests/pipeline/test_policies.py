"""Other schemes for other modules, in one recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import edgewright as ew
from edgewright.errors import RecipeError
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.graph import module_path
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.program import Program
from edgewright.targets import get_target
from edgewright.targets.coreml.inspect import inspect_mlpackage
from tests.small_models import outputs
from tests.vision_language import POLICY, VisionLanguage, batches, step

TARGETS = ("coreml", "onnx", "openvino", "tflite")


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return ew.capture(VisionLanguage().eval(), batches(1)[0])


@pytest.fixture(scope="module")
def compressed(program: Program) -> Program:
    return ew.compress(program, POLICY, batches=batches(16)).program


def stored_as(program: Program) -> dict[str, str]:
    """By module: how its weight is stored."""
    found = {}
    for node in program.graph.nodes:
        if str(node.target) in ("aten.linear.default", "aten.conv2d.default", "aten.embedding.default"):
            weight = node.args[0] if "embedding" in str(node.target) else node.args[1]
            inputs = "a8" if "dequantize_per_tensor" in str(node.args[0]).replace("_default", "") else ""
            found[module_path(node)] = f"{str(weight.target).split('.')[-2]}{inputs}"
    return found


def test_each_module_gets_the_scheme_of_the_first_step_that_names_it(compressed: Program) -> None:
    assert stored_as(compressed) == {
        "vision.patches": "dequantize_per_channela8",
        "vision.block.attention.qkv": "to",
        "vision.block.attention.out": "to",
        "vision.block.mlp.0": "dequantize_per_channela8",
        "vision.block.mlp.2": "dequantize_per_channela8",
        "projector": "dequantize_per_channela8",
        "language.embed": "dequantize_per_channel",
        "language.block.attention.qkv": "dequantize_affine",
        "language.block.attention.out": "dequantize_affine",
        "language.block.mlp.0": "dequantize_affine",
        "language.block.mlp.2": "dequantize_affine",
        "language.head": "dequantize_per_channel",
    }


@pytest.mark.parametrize("target", TARGETS)
def test_a_recipe_of_four_schemes_gives_the_same_numbers_in_the_file(
    program: Program, compressed: Program, target: str, tmp_path: Path
) -> None:
    samples = batches(8)
    exact, expected = outputs(program, samples).numpy(), outputs(compressed, samples).numpy()
    with ew.open(ew.lower(compressed, target=target, folder=tmp_path)) as session:
        found = [session.run({name: value.numpy() for name, value in sample.items()}) for sample in samples]
    reached = sqnr_db(exact, np.concatenate([next(iter(outputs.values())) for outputs in found]))
    assert reached > sqnr_db(exact, expected) - 1.0


@pytest.mark.parametrize("target", TARGETS)
def test_each_stores_floats_in_16_bits_and_weights_in_their_own(
    compressed: Program, target: str, tmp_path: Path
) -> None:
    stored = compressed.weight_bytes()
    found = get_target(target).inspect(ew.lower(compressed, target=target, folder=tmp_path)).bytes_by_dtype
    assert found["float16"] >= stored["float16"]
    assert found["int4"] >= stored["int4"]
    assert found.get("float32", 0) <= stored["float32"] * 1.5


def test_layers_of_8_bits_beside_weights_of_4_count_as_integers_on_core_ml(compressed: Program, tmp_path: Path) -> None:
    """With iOS 18 all weights are stored in one form, those of integer layers, too."""
    share = inspect_mlpackage(ew.lower(compressed, target="coreml", folder=tmp_path).main).low_precision_share
    assert share == pytest.approx(0.23, abs=0.02)


def test_a_concatenation_of_an_encoded_value_and_a_float_one_stays_float_on_tflite(
    program: Program, tmp_path: Path
) -> None:
    """The embeddings reach further than the projected picture, and must not be cut off where that ends."""
    recipe = [step("w8a8", "projector"), step("w8", "@embedding")]
    graph = ew.compress(program, recipe, batches=batches(16)).program
    sample = batches(1)[0]
    with ew.open(ew.lower(graph, target="tflite", folder=tmp_path)) as session:
        found = next(iter(session.run({name: value.numpy() for name, value in sample.items()}).values()))
    assert sqnr_db(outputs(graph, [sample]).numpy(), found) > 45


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("@first", {"vision.patches"}),
        ("@last", {"language.head"}),
        ("@embedding|@convolution", {"vision.patches", "language.embed"}),
        ("!language.*|!vision.*", {"projector"}),
        ("vision.*|!*.attention.*|!@first", {"vision.block.mlp.0", "vision.block.mlp.2"}),
    ],
)
def test_patterns_name_modules_kinds_and_ends(program: Program, pattern: str, expected: set[str]) -> None:
    patterns = ModulePatterns.of(pattern, program)
    found = {module_path(node) for node in program.graph.nodes if node.op == "call_function" and patterns.match(node)}
    assert found & set(stored_as(program)) == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("vison.*", "matches no module\n  got: 'vison.\\*'\n  expected: did you mean 'vision"),
        ("*|!languag", "matches no module\n  got: 'languag'"),
        ("@frist", "no such kind of layer\n  got: '@frist'\n  expected: did you mean '@first'"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused_with_the_nearest(program: Program, pattern: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ew.compress(program, [step("w8", pattern)])


def test_smoothing_touches_only_the_layers_of_its_step() -> None:
    torch.manual_seed(0)
    model = VisionLanguage().eval()
    for tower in (model.vision, model.language):
        tower.block.norm1.weight.data[3] = 30.0  # one channel far larger than the rest
    program = ew.capture(model, batches(1)[0])
    smoothed = [
        next(
            ran.report.rewrites
            for ran in ew.compress(program, [step("w8a8", modules)], batches=batches(8)).reports
            if ran.step.name == "smooth-activations"
        )
        for modules in ("vision.*", "language.*", "*")
    ]
    assert 0 < smoothed[0] < smoothed[2] and 0 < smoothed[1] < smoothed[2]
