"""4-bit weights of integer layers (w4a8) in each format: at their size in the file, computed in integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import edgewright as ew
from edgewright.errors import TargetError
from edgewright.pipeline.low_precision import low_precision_share
from edgewright.pipeline.lowering import refuse_schemes
from edgewright.pipeline.metrics import sqnr_by_output
from edgewright.pipeline.passes.block_weights import BlockWeights
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.passes.stored_integers import narrow_layers, stored_weights
from edgewright.pipeline.program import Program
from edgewright.targets import get_target, require_runtime
from edgewright.targets.base import Artifact
from tests.small_models import SMALL, captured

TARGETS = ("coreml", "onnx", "openvino", "tflite")


@cache
def compressed(model: str, scheme: str = "w4a8") -> Program:
    recipe = [{"pass": "quantize", "scheme": scheme}]
    return ew.compress(captured(model), recipe, batches=SMALL[model].batches(16)).program


def skip_without(target: str) -> None:
    try:
        require_runtime(get_target(target))
    except TargetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Artifact]:
    folder = tmp_path_factory.mktemp("narrow")

    @cache
    def make(target: str, model: str) -> Artifact:
        skip_without(target)
        return ew.lower(compressed(model), target, folder / target / model)

    return make


def test_the_graph_stores_layers_at_four_bits_and_counts_them_so() -> None:
    program = compressed("cnn")
    layers = stored_weights(program)
    assert len(layers) == len(narrow_layers(program)) == 8
    assert all(layer.bits == 4 and int(layer.integers.abs().max()) == 7 for layer in layers)
    sizes = program.weight_bytes()
    assert sizes["int4"] * 2 == compressed("cnn", "w8a8").weight_bytes()["int8"]
    assert low_precision_share(program) == 1.0
    assert not narrow_layers(compressed("cnn", "w8a8"))


@pytest.mark.parametrize("model", ["cnn", "encoder"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_file_is_as_good_as_the_graph_half_the_size_and_integer(
    lowered: Callable[[str, str], Artifact], target: str, model: str
) -> None:
    program, artifact = compressed(model), lowered(target, model)
    inspection = get_target(target).inspect(artifact)
    assert inspection.bytes_by_dtype["int4"] == program.weight_bytes()["int4"]
    assert inspection.bytes_by_dtype.get("int8", 0) <= program.weight_bytes().get("int8", 0) + 2_000
    assert inspection.low_precision_share >= 0.95
    batches = SMALL[model].batches(8, seed=21)
    arrays = [{name: value.numpy() for name, value in batch.items()} for batch in batches]
    original, graph = (
        [{name: value.numpy() for name, value in each.run(batch).items()} for batch in batches]
        for each in (captured(model), program)
    )
    with ew.open(artifact) as session:
        outputs = [session.run(batch) for batch in arrays]
    reached, stated = sqnr_by_output(original, outputs), sqnr_by_output(original, graph)
    assert all(reached[name] >= stated[name] - 1.0 for name in stated)
    if target in ("coreml", "onnx"):
        assert min(sqnr_by_output(graph, outputs).values()) > 60.0


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_program_gives_the_same_bytes(
    lowered: Callable[[str, str], Artifact], target: str, tmp_path: Path
) -> None:
    files = [lowered(target, "mlp").files, ew.lower(compressed("mlp"), target, tmp_path).files]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_a_file_states_the_runtime_that_has_such_layers(lowered: Callable[[str, str], Artifact]) -> None:
    expected = {
        "onnx": {"onnxruntime": "1.23"},  # 1.20 and 1.22 were seen to refuse the cast of 4-bit integers
        "coreml": {"iOS": "18", "macOS": "15"},
        "tflite": {"ai-edge-litert": "2.1.0"},  # of linear layers; 1.0 was seen to refuse them
    }
    for target, minimum in expected.items():
        assert get_target(target).inspect(lowered(target, "mlp")).minimum == minimum


@pytest.mark.parametrize(("target", "runtime"), [("onnx", "onnxruntime==1.20"), ("coreml", "iOS==17")])
def test_an_older_runtime_is_refused_such_layers(target: str, runtime: str, tmp_path: Path) -> None:
    skip_without(target)
    with pytest.raises(TargetError, match=r"came with .*name a newer runtime"):
        ew.lower(compressed("mlp"), target, tmp_path, minimum=runtime)
    ew.lower(compressed("mlp", "w8a8"), target, tmp_path, minimum=runtime)
    with pytest.raises(TargetError, match="no native form of w4a8"):
        refuse_schemes(get_target(target, runtime), ["w4a8"])


def test_a_target_without_such_layers_names_the_nearest_scheme() -> None:
    with pytest.raises(TargetError, match="no native form of w4a8") as caught:
        refuse_schemes(get_target("executorch"), ["w4a8"])
    assert "'w8a8'" in str(caught.value)


def test_tflite_states_versions_of_operators_that_have_such_weights(lowered: Callable[[str, str], Artifact]) -> None:
    artifact = lowered("tflite", "cnn")
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(artifact.main.read_bytes(), 0)
    versions = {"CONV_2D": 7, "DEPTHWISE_CONV_2D": 7, "FULLY_CONNECTED": 14}
    kinds = {getattr(schema.BuiltinOperator, name): version for name, version in versions.items()}
    seen = set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            if code.builtinCode in kinds:
                assert graph.tensors[operator.inputs[1]].type == schema.TensorType.INT4
                assert code.version == kinds[code.builtinCode]
                seen.add(code.builtinCode)
    assert seen == set(kinds)


def test_block_weights_changes_no_number_and_leaves_eight_bits_alone() -> None:
    program, batch = compressed("cnn"), SMALL["cnn"].batches(1, seed=3)[0]
    result = run_passes(program, [BlockWeights()])
    assert result.reports[0].report.rewrites == 8
    assert not narrow_layers(result.program)
    for name, value in result.program.run(batch).items():
        assert (value - program.run(batch)[name]).abs().max() <= 1e-6
    assert run_passes(compressed("cnn", "w8a8"), [BlockWeights()]).reports[0].report.rewrites == 0
