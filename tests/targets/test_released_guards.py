"""What kept LiteRT's converter from folding weights is not in the file any more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgewright as ew
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.keep_weights import LEAST
from edgewright.targets import get_target, require_runtime

try:
    require_runtime(get_target("tflite"))
except ew.EdgewrightError as error:
    pytest.skip(str(error), allow_module_level=True)


class Normed(nn.Module):
    """A norm whose factors the converter would fold into both layers, and a maximum of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.norm(x)).clamp(min=-0.5)) * 1.7


def kinds_and_error(model: nn.Module, x: Tensor, scheme: str, folder: Path) -> tuple[list[str], float]:
    program = ew.compress(ew.capture(model, (x,)), [{"pass": "quantize", "scheme": scheme}]).program
    artifact = ew.lower(program, "tflite", folder)
    (name,) = (spec.name for spec in program.inputs)
    with ew.open(artifact) as session:
        found = session.run({name: x.numpy()})["output_0"]
    kinds = [operation.op for operation in get_target("tflite").inspect(artifact).operations]
    return kinds, sqnr_db(program.run({name: x})["output_0"].numpy(), found)


@pytest.mark.parametrize("scheme", ["w8", "fp16", "w8a8-dynamic"])
def test_no_guard_is_left_beside_stored_weights(scheme: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kinds, error = kinds_and_error(Normed().eval(), torch.randn(1, 8, 32), scheme, tmp_path)
    assert kinds.count("MAXIMUM") == 1, "that of the model"
    assert error > 60


def test_a_guard_that_gives_the_models_output_stays(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
    guarded = nn.Sequential(nn.Linear(32, 32), _Clamp())
    assert "MAXIMUM" not in kinds_and_error(model, torch.randn(2, 32), "w8", tmp_path / "plain")[0]
    kinds, error = kinds_and_error(guarded, torch.randn(2, 32), "w8", tmp_path / "guarded")
    assert "MAXIMUM" in kinds and error > 60


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=LEAST)
