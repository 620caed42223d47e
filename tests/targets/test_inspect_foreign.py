"""Files that others made: what they state is told, what is not known is said, and what is broken is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright.errors import TargetError
from edgewright.pipeline.inspection import inspect_path
from edgewright.pipeline.passes.runner import run_passes
from edgewright.targets import get_target
from edgewright.targets.base import Inspection
from tests.small_models import quantized

FLOAT = TensorProto.FLOAT


def port(name: str, shape: list[int | str], dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> onnx.TensorProto:
    return numpy_helper.from_array(value, name)


def save(path: Path, graph: onnx.GraphProto, opset: int = 17, **more: object) -> Path:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, **more), str(path))  # type: ignore[arg-type]
    return path


def branches_and_loop(path: Path) -> Path:
    """If with a product in each branch (both called "mm"), a Loop, and a function of the file's own."""
    weight = constant("w", np.ones((3, 4), np.float32))
    product = helper.make_node("MatMul", ["x", "w"], ["t"], name="mm")
    both = [helper.make_graph([product], name, [], [port("t", [2, 4])], [weight]) for name in ("then", "else")]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["v"], ["u"])],
        "body",
        [port("i", [], TensorProto.INT64), port("go", [], TensorProto.BOOL), port("v", [2, 4])],
        [port("on", [], TensorProto.BOOL), port("u", [2, 4])],
    )
    twice = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=both[0], else_branch=both[1]),
        helper.make_node("Constant", [], ["n"], value=numpy_helper.from_array(np.array(3, np.int64))),
        helper.make_node("Loop", ["n", "", "y"], ["z"], name="loop", body=body),
        helper.make_node("Twice", ["z"], ["out"], domain="mine"),
    ]
    ports = [port("c", [], TensorProto.BOOL), port("x", [2, 3])], [port("out", [2, 4])]
    return save(path, helper.make_graph(nodes, "g", *ports), functions=[twice])


def test_bodies_and_functions_of_an_onnx_file_are_counted(tmp_path: Path) -> None:
    found = inspect_path(branches_and_loop(tmp_path / "model.onnx"))
    assert found.macs == 2 * (2 * 4 * 3)
    assert {operation.op for operation in found.operations} == {"If", "MatMul", "Identity", "Relu", "Loop", "Add"}
    assert found.bytes_by_dtype == {"float32": 2 * 48, "int64": 8}
    assert any("Loop" in note and "once" in note for note in found.notes)


def test_integer_operators_of_onnx_runtime_are_integer_and_their_shapes_are_asked_for(tmp_path: Path) -> None:
    """QLinearAdd is no operator of ONNX: only the runtime knows the shape of what the product behind it reads."""
    scale, zero = constant("s", np.array(0.1, np.float32)), constant("z", np.array(3, np.uint8))
    weight = constant("w", np.ones((6, 4), np.uint8))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearAdd", ["q", "s", "z", "q", "s", "z", "s", "z"], ["d"], domain="com.microsoft"),
        helper.make_node("QLinearMatMul", ["d", "s", "z", "w", "s", "z", "s", "z"], ["m"]),
        helper.make_node("DequantizeLinear", ["m", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [port("x", ["batch", 6])], [port("y", ["batch", 4])], [scale, zero, weight])
    found = inspect_path(save(tmp_path / "model.onnx", graph))
    assert found.macs == 6 * 4
    assert found.low_precision_share == 1.0
    assert found.islands == ()
    assert any("batch" in note for note in found.notes)
    assert found.versions == {"opset": "17", "com.microsoft": "1", "IR": "9"}
    (reader,) = found.readers
    assert reader.version == "1.16"  # IR 9


def test_dynamic_quantization_computes_its_products_in_integers(tmp_path: Path) -> None:
    weight, zero = constant("w", np.ones((6, 4), np.uint8)), constant("wz", np.array(0, np.uint8))
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    found = inspect_path(
        save(
            tmp_path / "m.onnx", helper.make_graph(nodes, "g", [port("x", [2, 6])], [port("y", [2, 4])], [weight, zero])
        )
    )
    assert found.macs == 2 * 6 * 4
    assert found.low_precision_share == 1.0
    computes = {operation.op: operation.compute for operation in found.operations}
    assert computes["MatMulInteger"] == "int8"
    assert computes["Mul"] == "float32"


def external(path: Path) -> Path:
    weight = constant("w", np.ones((6, 400), np.float32))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [port("x", [2, 6])], [port("y", [2, 400])], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_weights_beside_an_onnx_file_count_and_have_to_be_there(tmp_path: Path) -> None:
    path = external(tmp_path / "model.onnx")
    found = inspect_path(path)
    assert found.bytes_by_dtype == {"float32": 9600}
    assert found.largest_constants[0].shape == (6, 400)
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(TargetError, match="too short"):
        inspect_path(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(TargetError, match="missing"):
        inspect_path(path)


def test_a_file_that_the_runtime_does_not_run_is_still_read(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Unheard", ["t"], ["y"], domain="mine")]
    weight = constant("w", np.ones((6, 4), np.float32))
    graph = helper.make_graph(nodes, "g", [port("x", [2, 6])], [port("y", [2, 4])], [weight])
    found = inspect_path(save(tmp_path / "model.onnx", graph))
    assert found.macs == 48
    assert found.executed is None
    assert any("does not run the file" in note for note in found.notes)


def artifact_of(name: str, folder: Path) -> Path:
    target = get_target(name)
    return target.lower(run_passes(quantized("mlp"), target.legalize()).program, folder).main


@pytest.mark.parametrize("name", ["onnx", "openvino", "tflite"])
def test_half_a_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = artifact_of(name, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TargetError, match=r"cannot be read|holds no"):
        inspect_path(path)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".mlmodel"])
def test_an_empty_file_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"")
    with pytest.raises(TargetError):
        inspect_path(path)


def test_a_tflite_file_that_computes_in_float_shows_its_islands(tmp_path: Path) -> None:
    """Each layer of it stands between DEQUANTIZE and QUANTIZE."""
    from tests.targets.test_inspect import convert_without_config

    legal = run_passes(quantized("mlp"), get_target("tflite").legalize()).program
    convert_without_config(legal, tmp_path / "model.tflite")
    found: Inspection = inspect_path(tmp_path / "model.tflite")
    assert found.low_precision_share == 0.0
    assert sum(island.macs for island in found.islands) == found.macs
    honest = tmp_path / "honest"
    honest.mkdir()
    assert inspect_path(artifact_of("tflite", honest)).islands == ()


def test_a_neural_network_of_core_ml_shows_layers_and_weights(tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder, quantization_utils

    builder = NeuralNetworkBuilder([("x", datatypes.Array(6))], [("y", datatypes.Array(4))])
    builder.add_inner_product("dense", np.ones((4, 6)), np.zeros(4), 6, 4, True, "x", "h")
    builder.add_activation("relu", "RELU", "h", "y")
    ct.models.utils.save_spec(builder.spec, str(tmp_path / "model.mlmodel"))
    found = inspect_path(tmp_path / "model.mlmodel")
    assert [operation.op for operation in found.operations] == ["innerProduct", "activation"]
    assert found.bytes_by_dtype == {"float32": 4 * (24 + 4)}
    assert any("no shapes" in note for note in found.notes)
    half = quantization_utils.quantize_weights(ct.models.MLModel(builder.spec, skip_model_load=True), nbits=16)
    ct.models.utils.save_spec(
        half if not hasattr(half, "get_spec") else half.get_spec(), str(tmp_path / "half.mlmodel")
    )
    assert inspect_path(tmp_path / "half.mlmodel").bytes_by_dtype["float16"] == 2 * (24 + 4)


def test_a_palettized_package_counts_indices_at_their_bits(tmp_path: Path) -> None:
    import coremltools as ct
    import coremltools.optimize.coreml as cto
    from coremltools.converters.mil import Builder as mb

    rng = np.random.default_rng(0)

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 64))], opset_version=ct.target.iOS18)
    def program(x):  # type: ignore[no-untyped-def]
        return mb.linear(x=x, weight=rng.standard_normal((128, 64)).astype(np.float32), name="y")

    model = ct.convert(
        program,
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    config = cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(nbits=4, mode="uniform"))
    cto.palettize_weights(model, config).save(str(tmp_path / "model.mlpackage"))
    found = inspect_path(tmp_path / "model.mlpackage")
    assert found.macs == 64 * 128
    assert found.bytes_by_dtype["uint4"] == 64 * 128 // 2
    assert found.low_precision_share == 0.0  # small weights, float16 arithmetic
    assert {operation.compute for operation in found.operations if operation.op == "linear"} == {"float16"}
    assert found.largest_constants[0].dtype == "uint4"
    assert found.readers[0].version == "18"
