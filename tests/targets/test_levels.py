"""What older and newer runtimes can express: the level that is named is the one that is written, or it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgewright.errors import TargetError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.lowering import lower, refuse_schemes, write_files
from edgewright.pipeline.passes.gather_booleans import GatherBooleans
from edgewright.pipeline.passes.graph import aten, value_of
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.program import Program
from edgewright.targets import get_target
from edgewright.targets.base import release_of


class Masked(nn.Module):
    """Picks places out of a boolean mask, as text encoders do with their attention mask."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        rows, columns = torch.tensor([0, 1, 1]), torch.tensor([3, 0, 2])
        return {"y": torch.where((x > 0)[rows, columns], x[rows, columns], -x[0, :3])}


@pytest.fixture(scope="module")
def masked() -> Program:
    return capture(Masked(), {"x": torch.linspace(-1, 1, 8).reshape(2, 4)})


@pytest.mark.parametrize(
    ("target", "minimum", "expected"),
    [
        ("onnx", None, {"onnxruntime": "1.17"}),
        ("onnx", "onnxruntime==1.15.1", {"onnxruntime": "1.15"}),
        ("onnx", "onnxruntime==1.19", {"onnxruntime": "1.17"}),
        ("onnx", "onnxruntime==1.22", {"onnxruntime": "1.20"}),
        ("onnx", "onnxruntime==1.23", {"onnxruntime": "1.23"}),
        ("onnx", "onnxruntime==1.30", {"onnxruntime": "1.24"}),
        ("coreml", "iOS==16.4", {"iOS": "16", "macOS": "13"}),
        ("coreml", "macOS==15", {"iOS": "18", "macOS": "15"}),
        ("tflite", "tflite-runtime==2.14.0", {"tflite": "2.14"}),
        ("openvino", "openvino==2024.2.0", {"openvino": "2024.0"}),
    ],
)
def test_the_newest_level_that_still_opens_there_is_taken(
    target: str, minimum: str | None, expected: dict[str, str]
) -> None:
    assert get_target(target, minimum).capabilities.minimum == expected


@pytest.mark.parametrize(
    ("target", "minimum", "words"),
    [
        ("onnx", "onnxruntime==1.10", r"onnxruntime 1\.15 or newer"),
        ("coreml", "iOS==15", "iOS 16 or newer"),
        ("tflite", "tflite-runtime==2.13.0", r"tflite 2\.14 or newer"),
        ("openvino", "openvino==2022.1", r"openvino 2023\.3 or newer"),
        ("coreml", "Android==14", "iOS==VERSION or macOS==VERSION"),
    ],
)
def test_what_is_too_old_is_refused_with_the_oldest_that_can(target: str, minimum: str, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        get_target(target, minimum)


def test_a_level_without_8_bit_activations_refuses_the_scheme() -> None:
    with pytest.raises(TargetError, match="no native form of w8a8"):
        refuse_schemes(get_target("coreml", "iOS==16"), ["w8a8"])
    refuse_schemes(get_target("coreml", "iOS==17"), ["w8a8"])


@pytest.mark.parametrize("level", get_target("onnx").capabilities.levels, ids=lambda level: str(level.format["opset"]))
def test_onnx_files_state_the_opset_of_their_level_and_the_oldest_ir_that_has_it(
    level: object, masked: Program, tmp_path: Path
) -> None:
    import onnx

    wanted = next(entry for entry in get_target("onnx").capabilities.levels if entry is level)
    minimum = f"onnxruntime=={wanted.minimum['onnxruntime']}"
    model = onnx.load(str(lower(masked, "onnx", tmp_path, minimum=minimum).main))
    # The newest one is for weights of few bits alone.
    stated = min(wanted.format["opset"], 20), min(wanted.format["ir"], 9)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": stated[0]}
    assert model.ir_version == stated[1]


@pytest.mark.parametrize(("minimum", "spec"), [("iOS==16", 7), ("iOS==17", 8), ("iOS==18", 9)])
def test_core_ml_packages_state_the_specification_of_their_level(
    minimum: str, spec: int, masked: Program, tmp_path: Path
) -> None:
    from coremltools.models.utils import load_spec

    artifact = lower(masked, "coreml", tmp_path, minimum=minimum)
    assert load_spec(str(artifact.main)).specificationVersion == spec
    x = masked.example[0]
    with get_target("coreml").open(artifact) as session:
        torch.testing.assert_close(torch.from_numpy(session.run({"x": x.numpy()})["y"]), Masked()(x)["y"])


def test_booleans_are_gathered_as_integers(masked: Program) -> None:
    found = run_passes(masked, [GatherBooleans()])
    assert found.reports[0].report.rewrites == 1
    picked = found.program.graph.find_nodes(op="call_function", target=aten.index.Tensor)
    assert torch.bool not in {value_of(node).dtype for node in picked}
    again = run_passes(found.program, [GatherBooleans()])
    assert again.reports[0].report.rewrites == 0
    torch.testing.assert_close(found.program.module(*masked.example), masked.module(*masked.example))


@pytest.mark.slow
def test_a_tflite_file_says_which_runtime_has_its_operators(
    masked: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the pass it needs a gather of booleans, which came after TFLite 2.14."""
    target = get_target("tflite", "tflite-runtime==2.14.0")
    (tmp_path / "old").mkdir()
    assert target.inspect(write_files(masked, target, tmp_path / "old")).minimum == {"tflite": "2.14"}
    monkeypatch.setattr(GatherBooleans, "run", lambda self, program, context: _nothing())
    for name in ("new", "refused"):
        (tmp_path / name).mkdir()
    own = get_target("tflite")
    assert own.inspect(write_files(masked, own, tmp_path / "new")).minimum == {"tflite": "2.17"}
    with pytest.raises(TargetError) as caught:
        write_files(masked, target, tmp_path / "refused")
    for word in ("GATHER_ND version 5", "at least tflite 2.17", "tflite 2.14 does not have"):
        assert word in str(caught.value)


def _nothing() -> object:
    from edgewright.pipeline.passes.base import PassReport

    return PassReport(0)


def test_the_installed_runtime_has_what_the_table_says_of_the_newest_release() -> None:
    """The same measurement that made the table, on the runtime that is here, for a few operators."""
    from edgewright.targets.tflite.versions import RELEASES

    newest = {
        name: version for _, _, changes in RELEASES for version, names in changes.items() for name in names.split()
    }
    for name in ("ADD", "GATHER_ND", "FULLY_CONNECTED", "DILATE"):
        assert opens(name, newest[name])
        assert not opens(name, newest[name] + 20)


def opens(name: str, version: int) -> bool:
    """Whether LiteRT has an operator, asked with a file that names it and computes nothing."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter

    model, code, graph, tensor = schema.ModelT(), schema.OperatorCodeT(), schema.SubGraphT(), schema.TensorT()
    code.builtinCode, code.version = getattr(schema.BuiltinOperator, name), version
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    tensor.shape, tensor.buffer, tensor.name = [1], 0, b"x"
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor], [0], [0], []
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    try:
        Interpreter(model_content=bytes(builder.Output()))
    except ValueError:
        return False
    return True


IR = """<?xml version="1.0"?><net name="main" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"/>
<layer id="1" name="node_x" type="Gelu" version="opset{opset}"/></layers><edges/></net>"""


def test_an_ir_with_a_newer_opset_is_told_with_the_release_that_has_it(tmp_path: Path) -> None:
    from edgewright.targets.openvino import LEVELS
    from edgewright.targets.openvino.versions import needed_level, refuse_newer

    path = tmp_path / "model.xml"
    path.write_text(IR.format(opset=15))
    assert needed_level(path, LEVELS).minimum == {"openvino": "2024.3"}
    with pytest.raises(TargetError) as caught:
        refuse_newer(path, LEVELS[1], LEVELS)
    for word in ("Gelu of opset 15", "at least openvino 2024.3", "openvino 2024.0 does not have"):
        assert word in str(caught.value)
    refuse_newer(path, LEVELS[2], LEVELS)


def test_no_two_layers_of_an_ir_come_to_share_a_name(tmp_path: Path) -> None:
    """OpenVINO 2024 refuses them: "name is not unique"."""
    from xml.etree import ElementTree

    from edgewright.targets.openvino.compact import compact_xml

    path = tmp_path / "model.xml"
    path.write_text(IR.format(opset=7))
    compact_xml(path, {"x"})
    names = [layer.get("name") for layer in ElementTree.parse(path).getroot().iter("layer")]
    assert names == ["x", "node_x"]


def test_versions_compare_by_their_numbers() -> None:
    assert release_of("2024.10.0rc1") == (2024, 10, 0)
    assert release_of("1.9") < release_of("1.17.3")
    assert release_of("newest") == ()
