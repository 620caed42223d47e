"""What coremltools cannot convert is refused by name, all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import edgewright as ew
from edgewright.errors import TargetError

pytest.importorskip("coremltools", reason="the coreml extra is not installed")


class Unknown(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0(x) + torch.special.erfcx(x).abs()


def test_every_unknown_operation_is_refused_at_once_with_its_source_line(tmp_path: Path) -> None:
    program = ew.capture(Unknown(), (torch.rand(2, 3),))
    with pytest.raises(TargetError) as caught:
        ew.lower(program, "coreml", tmp_path / "out")
    operations = {refusal.op for refusal in caught.value.refusals}
    assert any("i0" in operation for operation in operations)
    assert any("erfcx" in operation for operation in operations)
    assert all("torch.special" in refusal.source for refusal in caught.value.refusals)
    assert "another target" in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_the_same_program_is_no_matter_for_a_target_that_knows_its_operations(tmp_path: Path) -> None:
    program = ew.capture(nn.Softplus(), (torch.rand(2, 3),))
    assert ew.validate(ew.lower(program, "coreml", tmp_path), program, [(torch.rand(2, 3),)]).passed
