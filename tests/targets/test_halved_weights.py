"""float16 weights are float16 in a TFLite file, whatever stands beside their layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import edgewright as ew
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.graph import aten
from edgewright.pipeline.passes.keep_weights import KeepWeights
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.program import Program
from edgewright.targets import get_target, require_runtime

WIDTH = 32
Forward = Callable[["Beside", Tensor], Tensor]


class Beside(nn.Module):
    """Linear layers and norms as after training, put together by `forward`."""

    def __init__(self, together: Forward) -> None:
        super().__init__()
        self.norm, self.batch = nn.LayerNorm(WIDTH), nn.BatchNorm1d(WIDTH)
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.together = together
        for norm in (self.norm, self.batch):
            nn.init.uniform_(norm.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.together(self, x)


def attend(model: Beside, x: Tensor) -> Tensor:
    query, key = (layer(x).view(1, 16, 4, 8).transpose(1, 2) for layer in (model.first, model.second))
    return F.scaled_dot_product_attention(query, key, key)


FACTORS: dict[str, Forward] = {
    "a norm before": lambda model, x: model.first(model.norm(x)),
    "a norm before, seen as rows": lambda model, x: model.first(model.norm(x).view(16, WIDTH)),
    "a batch norm before": lambda model, x: model.first(model.batch(x[0])),
    "a quotient before": lambda model, x: model.first(torch.sin(x) / 3),
    "a factor behind turned axes": lambda model, x: torch.sin(model.first(x).view(1, 16, 4, 8).transpose(1, 2) * 0.3),
    "attention's scale": attend,
}


def halved(forward: Forward) -> Program:
    torch.manual_seed(0)
    program = ew.capture(Beside(forward).eval(), (torch.randn(1, 16, WIDTH),))
    return ew.compress(program, [{"pass": "quantize", "scheme": "fp16"}]).program


@pytest.mark.parametrize("name", FACTORS)
def test_a_factor_beside_a_layer_leaves_its_weight_in_float16(name: str, tmp_path: Path) -> None:
    try:
        require_runtime(get_target("tflite"))
    except ew.EdgewrightError as error:
        pytest.skip(str(error))
    program = halved(FACTORS[name])
    artifact = ew.lower(program, "tflite", tmp_path)
    inspection = get_target("tflite").inspect(artifact)
    assert inspection.bytes_by_dtype["float16"] == program.weight_bytes()["float16"] > 0
    assert "CAST" not in {operation.op for operation in inspection.operations}
    assert not inspection.left_delegate, "a layer behind a CAST runs in plain kernels, 3.4 times slower"
    sample = {"x": torch.randn(1, 16, WIDTH)}
    with ew.open(artifact) as session:
        found = session.run({"x": sample["x"].numpy()})["output_0"]
    assert sqnr_db(program.run(sample)["output_0"].numpy(), found) > 100


def test_the_weights_of_a_large_convolution_are_turned_in_the_file(tmp_path: Path) -> None:
    try:
        require_runtime(get_target("tflite"))
    except ew.EdgewrightError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    sample = {"x": torch.randn(1, 96, 10, 10)}
    program = ew.capture(Wide().eval(), (sample["x"],))
    program = ew.compress(program, [{"pass": "quantize", "scheme": "fp16"}]).program
    artifact = ew.lower(program, "tflite", tmp_path)
    inspection = get_target("tflite").inspect(artifact)
    assert not inspection.left_delegate, "a convolution whose weights are computed runs in plain kernels"
    assert inspection.bytes_by_dtype["float16"] == program.weight_bytes()["float16"]
    with ew.open(artifact) as session:
        found = session.run({"x": sample["x"].numpy()})["output_0"]
    assert sqnr_db(program.run(sample)["output_0"].numpy(), found) > 100


class Wide(nn.Module):
    """More weights than the converter turns itself, read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(96, 96, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).relu())


def test_what_folds_into_no_weight_is_left_alone() -> None:
    def residual(model: Beside, x: Tensor) -> Tensor:
        return x + model.second(F.hardswish(model.first(x) + 1.0))

    assert run_passes(halved(residual), [KeepWeights()]).reports[0].report.rewrites == 0


def test_layers_that_read_one_norm_share_the_maximum_behind_it() -> None:
    def both(model: Beside, x: Tensor) -> Tensor:
        normed = model.norm(x)
        return model.first(normed) + model.second(normed)

    before = halved(both)
    after = run_passes(before, [KeepWeights()]).program
    assert len(after.graph.find_nodes(op="call_function", target=aten.clamp.default)) == 1
    sample = {"x": torch.randn(1, 16, WIDTH)}
    assert torch.equal(before.run(sample)["output_0"], after.run(sample)["output_0"])
