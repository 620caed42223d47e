"""Open dimensions on every target: the numbers at each size, the refusal of every other, and one set of weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.errors import ShapeError, TargetError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.compress import compress
from edgewright.pipeline.low_precision import low_precision_share, node_macs
from edgewright.pipeline.lowering import lower, open_artifact
from edgewright.pipeline.metrics import sqnr_by_output
from edgewright.pipeline.program import Program
from edgewright.pipeline.shapes import Dim, cases
from edgewright.targets import get_target, require_runtime, target_names
from edgewright.targets.base import Artifact, Target

OPEN = tuple(name for name in target_names() if get_target(name).capabilities.open_sizes != "none")
BATCH, SEQUENCE = Dim("batch", 1, 3, (1, 3)), Dim("sequence", 4, 16, (4, 9, 16))
SCHEMES = ("fp32", "w8a8")
Arrays = dict[str, "np.ndarray[Any, Any]"]


class Encoder(nn.Module):
    """Embedding, positions up to the length, a masked attention and a masked mean."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(50, 32), nn.Embedding(16, 32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        batch, length = tokens.shape
        x = self.table(tokens) + self.positions(torch.arange(length))
        q, k, v = self.qkv(x).reshape(batch, length, 3, 2, 16).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].bool())
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, 32))
        weights = mask.float()[..., None]
        return {"hidden": x, "mean": (x * weights).sum(1) / weights.sum(1)}


class Perceptron(nn.Module):
    """Two layers on rows: the batch alone is open."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": self.down(F.relu(self.up(x)))}


def encoder_inputs(batch: int, length: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + length)
    mask = (torch.arange(length) < length - 1).long().expand(batch, length).clone()
    return {"tokens": torch.randint(0, 50, (batch, length), generator=generator), "mask": mask}


def rows(batch: int) -> dict[str, Tensor]:
    return {"x": torch.randn(batch, 32, generator=torch.Generator().manual_seed(batch))}


@cache
def captured(model: str) -> Program:
    torch.manual_seed(0)
    if model == "perceptron":
        return capture(Perceptron().eval(), rows(2), {"x": {0: BATCH}})
    open_axes = {"tokens": {1: SEQUENCE}, "mask": {1: SEQUENCE}}
    return capture(Encoder().eval(), encoder_inputs(1, 8), open_axes)


@cache
def program(model: str, scheme: str) -> Program:
    recipe = [] if scheme == "fp32" else [{"pass": "quantize", "scheme": scheme}]
    lengths = (4, 6, 9, 13, 16)
    batches = [encoder_inputs(1, length) for length in lengths] if model == "encoder" else [rows(3)] * 2
    return compress(captured(model), recipe, batches=batches).program


def inputs(model: str, sizes: dict[str, int]) -> dict[str, Tensor]:
    return rows(sizes["batch"]) if model == "perceptron" else encoder_inputs(1, sizes["sequence"])


def arrays(tensors: dict[str, Tensor]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def usable(name: str) -> Target:
    try:
        require_runtime(get_target(name))
    except TargetError as error:
        pytest.skip(f"{name}: {error}")
    return get_target(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dynamic")


@cache
def lowered(folder: Path, name: str, model: str, scheme: str) -> Artifact:
    usable(name)
    return lower(program(model, scheme), name, folder / name / model / scheme)


every_file = pytest.mark.parametrize(
    ("name", "model", "scheme"),
    [(name, model, scheme) for name in OPEN for model in ("encoder", "perceptron") for scheme in SCHEMES],
)


def test_the_four_first_targets_keep_dimensions_open() -> None:
    assert {"onnx", "openvino", "coreml", "tflite"} <= set(OPEN)


@pytest.mark.slow
@every_file
def test_an_open_artifact_computes_the_graph_at_every_size(folder: Path, name: str, model: str, scheme: str) -> None:
    with open_artifact(lowered(folder, name, model, scheme)) as session:
        for sizes in cases(captured(model).dims):
            given = inputs(model, sizes)
            original, graph = (arrays(made.run(given)) for made in (captured(model), program(model, scheme)))
            found = session.run(arrays(given))
            own, total = sqnr_by_output([original], [graph]), sqnr_by_output([original], [found])
            for key, value in graph.items():
                assert (found[key].shape, found[key].dtype) == (value.shape, value.dtype), sizes
                assert total[key] >= min(own[key] - 1.0, 80.0), (sizes, key)
            assert scheme == "fp32" or min(own.values()) < 60.0, "a graph without noise of its own shows nothing"


@pytest.mark.slow
@every_file
def test_a_size_that_the_file_does_not_take_is_named(folder: Path, name: str, model: str, scheme: str) -> None:
    listed = usable(name).capabilities.open_sizes == "listed"
    with open_artifact(lowered(folder, name, model, scheme)) as session:
        dim = captured(model).dims[0]
        with pytest.raises(ShapeError, match=f"{dim.name}={dim.max + 1}\n  expected"):
            session.run(arrays(inputs(model, {dim.name: dim.max + 1})))
        between = arrays(inputs(model, {dim.name: dim.min + 1}))
        if listed:
            with pytest.raises(ShapeError, match=f"expected: one of {', '.join(map(str, dim.sizes))}\n"):
                session.run(between)
        else:
            session.run(between)


@pytest.mark.slow
@every_file
def test_open_sizes_are_counted_at_their_largest(folder: Path, name: str, model: str, scheme: str) -> None:
    largest = program(model, scheme).at(captured(model).shapes.largest)
    inspection = usable(name).inspect(lowered(folder, name, model, scheme))
    assert inspection.macs == sum(node_macs(node) for node in largest.graph.nodes if node.op == "call_function")
    assert inspection.low_precision_share == pytest.approx(low_precision_share(program(model, scheme)), abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_graphs_of_several_sizes_share_one_set_of_weights(folder: Path, scheme: str) -> None:
    usable("tflite")
    from ai_edge_litert import schema_py_generated as schema

    content = lowered(folder, "tflite", "encoder", scheme).main.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    assert len(model.signatureDefs) == 3
    stored = [bytes(buffer.data) for buffer in model.buffers if buffer.data is not None and len(buffer.data) > 64]
    assert len(stored) == len(set(stored)), "no constant is there twice"
    assert sum(map(len, stored)) <= 1.1 * sum(program("encoder", scheme).weight_bytes().values()) + 2_000


@pytest.mark.slow
@pytest.mark.parametrize("name", OPEN)
def test_lowering_an_open_program_twice_gives_the_same_bytes(folder: Path, name: str, tmp_path: Path) -> None:
    first = lowered(folder, name, "perceptron", "w8a8")
    again = lower(program("perceptron", "w8a8"), name, tmp_path)
    for one, other in zip(first.files, again.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


# Formats of their own


@pytest.mark.slow
def test_files_state_names_and_bounds(folder: Path) -> None:
    usable("onnx"), usable("openvino"), usable("coreml")
    import coremltools
    import onnx
    import openvino

    files = {name: lowered(folder, name, "encoder", "fp32").main for name in ("onnx", "openvino", "coreml")}
    graph = onnx.load(str(files["onnx"])).graph
    shapes = {
        port.name: [size.dim_param or size.dim_value for size in port.type.tensor_type.shape.dim]
        for port in (*graph.input, *graph.output)
    }
    assert shapes == {
        "tokens": [1, "sequence"],
        "mask": [1, "sequence"],
        "hidden": [1, "sequence", 32],
        "mean": [1, 32],
    }
    model = openvino.Core().read_model(str(files["openvino"]))
    assert [str(port.partial_shape) for port in (*model.inputs, model.outputs[0])] == [
        *["[1,4..16]"] * 2,
        "[1,4..16,32]",
    ]
    spec = coremltools.models.utils.load_spec(str(files["coreml"]))
    for port in spec.description.input:
        ranges = port.type.multiArrayType.shapeRange.sizeRanges
        assert [(size.lowerBound, size.upperBound) for size in ranges] == [(1, 1), (4, 16)]


# Refusals


def test_a_format_with_one_graph_a_size_asks_for_the_sizes(tmp_path: Path) -> None:
    usable("tflite")
    unlisted = capture(Perceptron(), rows(2), {"x": {0: Dim("batch", 1, 3)}})
    with pytest.raises(
        TargetError, match=r"x \(axis 0, 'batch'\): it has one graph a size; .*sizes = \[1, 3\]"
    ) as caught:
        lower(unlisted, "tflite", tmp_path)
    assert [refusal.node for refusal in caught.value.refusals] == ["x"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in target_names() if name not in OPEN])
def test_a_format_of_fixed_shapes_refuses_open_ones(name: str, tmp_path: Path) -> None:
    usable(name)
    with pytest.raises(TargetError, match="takes fixed shapes only; capture with this dimension fixed"):
        lower(captured("perceptron"), name, tmp_path)
