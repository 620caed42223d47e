"""4-bit weights of integer layers (w4a8) in each format: at their size in the file, computed in integers."""

from __future__ import annotations

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
def test_the_file_is_as_good_as_the_graph_half_the_size_and_integer(target: str, model: str, tmp_path: Path) -> None:
    skip_without(target)
    program = compressed(model)
    artifact = ew.lower(program, target, tmp_path)
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
def test_the_same_program_gives_the_same_bytes(target: str, tmp_path: Path) -> None:
    skip_without(target)
    files = [ew.lower(compressed("mlp"), target, tmp_path / name).files for name in ("one", "two")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_a_file_states_the_runtime_that_has_such_layers(tmp_path: Path) -> None:
    expected = {
        "onnx": {"onnxruntime": "1.23"},  # 1.20 and 1.22 were seen to refuse the cast of 4-bit integers
        "coreml": {"iOS": "18", "macOS": "15"},
        "tflite": {"ai-edge-litert": "2.1.0"},  # of linear layers; 1.0 was seen to refuse them
    }
    for target, minimum in expected.items():
        skip_without(target)
        artifact = ew.lower(compressed("mlp"), target, tmp_path / target)
        assert get_target(target).inspect(artifact).minimum == minimum


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


def test_tflite_states_the_versions_of_operators_that_came_with_such_weights(tmp_path: Path) -> None:
    skip_without("tflite")
    from ai_edge_litert import schema_py_generated as schema

    content = ew.lower(compressed("cnn"), "tflite", tmp_path).main.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
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
