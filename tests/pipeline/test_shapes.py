"""Open dimensions: what capture takes and refuses, what a program keeps of them, and the data that shows every size."""

from __future__ import annotations

import inspect
import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.calibration.sizes import spread_sizes
from edgewright.errors import CalibrationError, CaptureError, ReleaseError, ShapeError, TargetError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.compress import compress
from edgewright.pipeline.export import export
from edgewright.pipeline.exported import as_exported
from edgewright.pipeline.handover import load_program, save_program
from edgewright.pipeline.metrics import sqnr_by_output
from edgewright.pipeline.package import read_vectors
from edgewright.pipeline.passes.graph import value_of
from edgewright.pipeline.program import Program
from edgewright.pipeline.release import read_release
from edgewright.pipeline.shapes import Dim, OpenShapes, cases
from edgewright.pipeline.verify import verify
from tests.small_release import own_imports

BATCH, SEQUENCE = Dim("batch", 1, 4), Dim("sequence", 4, 16)
OPEN = {"tokens": {0: BATCH, 1: SEQUENCE}, "mask": {0: "batch", 1: "sequence"}}
SIZES = [{"batch": 1, "sequence": 4}, {"batch": 3, "sequence": 9}, {"batch": 4, "sequence": 16}]


class Attention(nn.Module):
    """One head over tokens with positions and a mask; `doubled` has a size that is computed from an open one."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(50, 24), nn.Embedding(16, 24)
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        batch, length = tokens.shape
        x = self.table(tokens) + self.positions(torch.arange(length))
        q, k, v = self.qkv(x).reshape(batch, length, 3, 24).unbind(2)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, :].bool()))
        return {"hidden": x, "doubled": torch.cat([x, -x], 1)[..., 0]}


@cache
def program() -> Program:
    torch.manual_seed(0)
    return capture(Attention().eval(), feed({"batch": 1, "sequence": 8}), OPEN)


def feed(sizes: dict[str, int]) -> dict[str, Tensor]:
    batch, length = sizes["batch"], sizes["sequence"]
    generator = torch.Generator().manual_seed(batch * 100 + length)
    mask = (torch.arange(length) < max(2, length - 3)).long().expand(batch, length).clone()
    return {"tokens": torch.randint(0, 50, (batch, length), generator=generator), "mask": mask}


@cache
def quantized() -> Program:
    batches = [feed({"batch": 1, "sequence": length}) for length in (4, 7, 11, 16)]
    return compress(program(), [{"pass": "quantize", "scheme": "w8a8"}], batches=batches).program


# Bounds


@pytest.mark.parametrize(("least", "most", "sizes"), [(0, 4, ()), (4, 4, ()), (2, 8, (1, 4)), (2, 8, (4, 2))])
def test_impossible_bounds_are_refused(least: int, most: int, sizes: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="'n' has impossible bounds"):
        Dim("n", least, most, sizes)


def test_three_sizes_of_each_dimension_are_checked_in_every_combination() -> None:
    assert cases((Dim("a", 1, 9),)) == [{"a": 1}, {"a": 5}, {"a": 9}]
    found = cases((Dim("a", 1, 2), Dim("b", 4, 64, (8, 32))))
    assert found == [{"a": 1, "b": 8}, {"a": 1, "b": 32}, {"a": 2, "b": 8}, {"a": 2, "b": 32}]
    with pytest.raises(ShapeError, match="too many combinations"):
        cases(tuple(Dim(name, 1, 99, tuple(range(1, 10))) for name in "ab"))


# Capture


def test_an_open_program_equals_the_model_at_every_size() -> None:
    torch.manual_seed(0)
    model = Attention().eval()
    for sizes in SIZES:
        expected, found = model(**feed(sizes)), program().run(feed(sizes))
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_shapes_name_what_is_open_and_what_is_computed_from_it() -> None:
    assert [spec.shape for spec in program().inputs] == [("batch", "sequence")] * 2
    assert [spec.shape for spec in program().outputs] == [("batch", "sequence", 24), ("batch", "2*sequence")]
    assert program().dims == (BATCH, SEQUENCE)


class Resizing(nn.Module):
    """Strided convolution, pooling and resizing: sizes computed from open heights and widths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = F.avg_pool2d(F.relu(self.norm(self.stem(image))), 3, 1, 1)
        return {"map": F.interpolate(x, scale_factor=2.0), "scores": self.head(x.mean((2, 3)))}


def test_pictures_of_open_height_and_width_stay_open_through_quantization() -> None:
    axes = {"image": {0: Dim("batch", 1, 3), 2: Dim("height", 8, 40), 3: Dim("width", 8, 48)}}
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, height, width, generator=generator) for height, width in ((8, 8), (17, 30), (40, 48))]
    model = Resizing().eval()
    found = compress(
        capture(model, (images[0],), axes),
        [{"pass": "quantize", "scheme": "w8a8"}],
        batches=[{"image": image} for image in images],
    ).program
    assert found.outputs[0].shape == ("batch", 8, "2*(((height - 1)//2)) + 2", "2*(((width - 1)//2)) + 2")
    for image in (*images, torch.cat([images[1]] * 3)):
        exact, rounded = model(image), found.run({"image": image})
        assert min(sqnr_by_output([numbers(exact)], [numbers(rounded)]).values()) > 20.0


def _torch_dim() -> Any:
    return torch.export.Dim("rows", min=1, max=6)


@pytest.mark.parametrize(
    "shapes", [{"input": {0: _torch_dim()}}, ({0: _torch_dim()},), {"input": (_torch_dim(), None)}]
)
def test_what_torch_export_takes_is_taken(shapes: Any) -> None:
    found = capture(nn.ReLU(), (torch.ones(2, 3),), shapes)
    assert found.inputs[0].shape == ("rows", 3)
    assert found.dims == (Dim("rows", 1, 6),)


def test_nested_inputs_are_opened_where_they_are_named() -> None:
    class Nested(nn.Module):
        def forward(self, x: Tensor, extra: dict[str, Any]) -> Tensor:
            return x + extra["pair"][1] + extra["bias"]

    given = (torch.ones(2, 3), {"bias": torch.ones(3), "pair": [torch.ones(1), torch.ones(2, 3)]})
    found = capture(Nested(), given, {"x": {0: Dim("n", 1, 5)}, "extra": {"pair": [None, {0: "n"}]}})
    assert [spec.shape for spec in found.inputs] == [("n", 3), (3,), (1,), ("n", 3)]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"inptu": {0: Dim("n", 1, 4)}}, "did you mean 'input'"),
        ({"input": {2: Dim("n", 1, 4)}}, "no such axis"),
        ({"input": {0: "n"}}, "a dimension without bounds"),
        ({"input": {0: torch.export.Dim("n")}}, "a name and a largest size"),
        ({"input": {0: torch.export.Dim.AUTO}}, "a name and a largest size"),
        ({"input": {0: Dim("n", 1, 4), 1: Dim("n", 1, 5)}}, "two dimensions have this name"),
        ("n", "a dict or a tuple"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_form_that_can(shapes: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture(nn.ReLU(), (torch.ones(2, 3),), shapes)


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(6, 3)  # fixed


class Looping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = x[0]
        for row in range(x.shape[0]):  # fixed
            total = total + x[row]
        return total


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0 if x.shape[0] > 20 else x  # fixed


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Fixed, "does not run at n=11"), (Looping, "n = 11"), (Branching, "max=20")],
)
@pytest.mark.parametrize("disabled", [logging.NOTSET, logging.WARNING])
def test_a_model_that_fixes_a_size_is_refused_at_its_own_line(
    kind: type[nn.Module], message: str, disabled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", disabled)  # the command line silences all libraries
    lines, first = inspect.getsourcelines(kind)
    place = first + next(number for number, line in enumerate(lines) if "# fixed" in line)
    with pytest.raises(CaptureError, match=message) as caught:
        capture(kind(), (torch.ones(6, 3),), {"x": {0: Dim("n", 2, 30)}})
    assert f"{__file__}:{place}" in str(caught.value)
    assert "what to do" in str(caught.value)


# The program


@pytest.mark.parametrize("make", [program, quantized])
def test_a_program_at_a_size_is_fixed_and_computes_the_same(make: Any) -> None:
    for sizes in SIZES:
        fixed = make().at(sizes)
        assert fixed.dims == ()
        assert fixed.outputs[1].shape == (sizes["batch"], 2 * sizes["sequence"])
        assert not any("sym_size" in str(node.target) for node in fixed.graph.nodes)
        expected, found = make().run(feed(sizes)), fixed.run(feed(sizes))
        assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in expected.items())
        assert as_exported(fixed).range_constraints == {}


def test_encodings_are_the_same_at_every_size() -> None:
    def encodings(found: Program) -> list[tuple[Any, ...]]:
        return [node.args[1:] for node in found.graph.nodes if "quantize_per_tensor" in str(node.target)]

    assert len(encodings(quantized())) > 8
    for sizes in SIZES:
        assert encodings(quantized().at(sizes)) == encodings(quantized())
        noise = sqnr_by_output([numbers(program().run(feed(sizes)))], [numbers(quantized().run(feed(sizes)))])
        assert min(noise.values()) > 25.0


def numbers(outputs: dict[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: value.detach().numpy() for name, value in outputs.items()}


def test_sizes_stay_symbols_through_passes_and_saving(tmp_path: Path) -> None:
    found = quantized()
    save_program(found, tmp_path / "program.pt2")
    loaded = load_program(tmp_path / "program.pt2", found.inputs, found.outputs, found.dims)
    again = compress(loaded, []).program  # the cleaning passes
    for kept in (found, loaded, again):
        assert sorted(kept.symbols().values()) == ["batch", "sequence"]
        assert kept.outputs == program().outputs
        assert not all(isinstance(size, int) for size in value_of(_product(kept)).shape)
    for sizes in SIZES:
        assert torch.equal(again.run(feed(sizes))["hidden"], found.run(feed(sizes))["hidden"])


def _product(found: Program) -> torch.fx.Node:
    return next(iter(found.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)))


def test_a_batch_of_an_impossible_size_is_refused_by_name() -> None:
    wrong = feed({"batch": 1, "sequence": 17})
    with pytest.raises(ShapeError, match="sequence=17\n  expected: 4 to 16\n  where: input 'tokens', axis 1"):
        compress(program(), [], batches=[wrong])
    mixed = {**feed(SIZES[0]), "mask": feed(SIZES[1])["mask"]}
    with pytest.raises(ShapeError, match="two sizes for 'batch'"):
        compress(program(), [], batches=[mixed])


def test_a_size_out_of_bounds_is_no_program() -> None:
    with pytest.raises(ShapeError, match="sequence=17"):
        program().at({"batch": 1, "sequence": 17})


# Data


def rows(*lengths: int) -> list[dict[str, np.ndarray[Any, Any]]]:
    return [{"x": np.arange(number * 100, number * 100 + length)[None]} for number, length in enumerate(lengths)]


SHAPES = OpenShapes({"x": ("batch", "n")}, (Dim("batch", 1, 2, (1, 2)), Dim("n", 2, 8)))


def test_samples_are_cut_and_put_together_to_every_size_and_what_was_cut_is_told() -> None:
    found = spread_sizes(rows(8, 5, 8), SHAPES, "validation.data")
    shapes = [sample["x"].shape for sample in found.samples]
    assert shapes[:6] == [(2, 8), (1, 2), (1, 5), (1, 8), (2, 2), (2, 5)]
    assert shapes[-3:] == [(1, 8), (1, 5), (1, 8)], "the user's own samples, as they are"
    assert found.samples[0]["x"].tolist() == [list(range(8)), list(range(200, 208))]
    assert found.samples[2]["x"].tolist() == [list(range(100, 105))], "the nearest in size goes first"
    assert {"batch": 1, "n": 2} in found.cut
    assert {"batch": 2, "n": 8} not in found.cut


def test_samples_that_are_too_short_or_too_few_are_refused_with_the_size() -> None:
    with pytest.raises(CalibrationError, match=r"batch=2, n=8 on\n  got: 1 of 2 samples are long enough"):
        spread_sizes(rows(8, 5), SHAPES, "validation.data")


def test_samples_of_sizes_that_are_not_listed_serve_only_where_they_are_cut() -> None:
    listed = OpenShapes({"x": ("batch", "n")}, (Dim("n", 2, 8, (2, 4)),))
    found = spread_sizes(rows(8, 4), listed, "validation.data")
    assert {sample["x"].shape for sample in found.samples} == {(1, 2), (1, 4)}


# release.toml

RELEASE = """
[model]
source = "task:build"
[[model.inputs]]
name = "x"
shape = {shape}
{more}
[[deliver]]
device = "raspberry-pi-5"
target = "onnx"
"""


def release(folder: Path, shape: str, more: str = "") -> Any:
    (folder / "release.toml").write_text(RELEASE.format(shape=shape, more=more))
    return read_release(folder / "release.toml").model


def test_a_release_gives_dimensions_their_bounds(tmp_path: Path) -> None:
    found = release(tmp_path, '["batch", "n", 4]', "[model.dims]\nn = { min = 2, max = 8, sizes = [2, 4] }")
    assert found.open_dims == (Dim("n", 2, 8, (2, 4)),)
    assert release(tmp_path, '["batch", 4]').open_dims == (), "a name alone is size 1"


@pytest.mark.parametrize(
    ("shape", "more", "message"),
    [
        ('["batch", "n"]', "", "give n a size, or bounds under"),
        ('["batch", 4]', "[model.dims]\nn = { max = 8 }", "no input has the dimensions n"),
        ('["batch", "n"]', "[model.dims]\nn = { min = 9, max = 8 }", "impossible bounds"),
        ('["batch", 4]', "[model.dims]\nbatch = { min = 2, max = 8 }", "counts samples: its min is 1"),
        ('["n", "n"]', "[model.dims]\nn = { max = 8 }", "the first dimension counts samples"),
    ],
)
def test_impossible_dimensions_of_a_release_are_refused(tmp_path: Path, shape: str, more: str, message: str) -> None:
    with pytest.raises(ReleaseError, match=message):
        release(tmp_path, shape, more)


# The whole way

TASK = """
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(30, 32), nn.Linear(32, 48), nn.Linear(48, 6)

    def forward(self, tokens):
        x = self.table(tokens)
        return {"scores": self.down(torch.relu(self.up(x))).mean(1)}


def build():
    torch.manual_seed(0)
    return Net()


def data():
    random = np.random.default_rng(0)
    return [{"tokens": random.integers(0, 30, (1, length))} for length in (16, 16, 7, 16, 11)]
"""


@pytest.mark.slow
def test_a_release_with_open_sizes_is_verified_at_each(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    (tmp_path / "open_task.py").write_text(TASK)
    text = RELEASE.format(
        shape='["batch", "n"]\ndtype = "int64"', more="[model.dims]\nbatch = { max = 3 }\nn = { min = 4, max = 16 }"
    )
    text = text.replace("task:", "open_task:").replace('"x"', '"tokens"').replace("[model]", 'name = "open"\n[model]')
    text += '[validation]\ndata = "open_task:data"\n[[compress]]\npass = "quantize"\nscheme = "w8a8"\n'
    (tmp_path / "release.toml").write_text(text)
    with own_imports():
        result = export(tmp_path / "release.toml", tmp_path / "out")
    delivery = result.deliveries[0]
    assert (delivery.status, delivery.reason) == ("passed", "")
    assert [found.sizes for found in delivery.sizes] == [
        {"batch": batch, "n": n} for batch in (1, 2, 3) for n in (4, 10, 16)
    ]
    assert all(found.end_to_end.sqnr_db >= found.compression.sqnr_db - 1.0 for found in delivery.sizes)
    assert {found.sizes["n"] for found in delivery.sizes if found.cut} == {4, 10}
    assert sum("parity of scores at batch=" in check.name for check in delivery.checks) == 9
    assert any("longer ones were cut: batch=1, n=4" in sentence for sentence in delivery.not_verified)
    folder = tmp_path / "out" / "raspberry-pi-5-onnx"
    vectors = read_vectors(folder / "vectors.safetensors")
    assert len({given["tokens"].shape for given, _ in vectors}) >= 3
    manifest = verify(folder).manifest
    assert verify(folder).passed
    assert manifest.inputs[0].shape == ("batch", "n")
    assert (manifest.dims["n"].min, manifest.dims["n"].max, manifest.dims["n"].listed) == (4, 16, False)


def test_a_release_hears_of_missing_sizes_before_anything_runs(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="litert_torch is not installed")
    found = (tmp_path / "release.toml", RELEASE.format(shape='["batch", "n"]', more="[model.dims]\nn = { max = 8 }"))
    found[0].write_text(found[1].replace('"onnx"', '"tflite"').replace("raspberry-pi-5", "pixel-8"))
    (tmp_path / "task.py").write_text(TASK)
    with own_imports(), pytest.raises(TargetError, match=r"x \(axis 1, 'n'\): it has one graph a size"):
        export(found[0], tmp_path / "out")
