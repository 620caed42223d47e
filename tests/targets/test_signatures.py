"""Nested inputs and outputs, integers and booleans, absent outputs: the same names and values on every target."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgewright.errors import TargetError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.lowering import lower, open_artifact
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.program import Program
from edgewright.targets import get_target, require_runtime, target_names

TARGETS = target_names()


class Nested(nn.Module):
    """Every kind of value in every kind of container; `pooled` is there only when it is asked for."""

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.dense = nn.Linear(16, 16)
        self.pooled = pooled

    def forward(
        self, features: Tensor, context: dict[str, Any], pair: tuple[Tensor, Tensor], bias: Tensor | None = None
    ) -> dict[str, Any]:
        x = self.dense(features) + self.table(context["ids"]) * context["scale"][0]
        x = torch.where(pair[0], x, -x) if bias is None else x + bias
        counts = pair[1] + context["ids"]
        return {
            "hidden": x,
            "pooled": x.mean(1) if self.pooled else None,
            "extra": {"counts": counts, "large": (x.sum(-1) > 0.0, counts > 15)},
            "states": [x * 2.0, (x.tanh(), x.amax(1))],
        }


def inputs() -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 4, 16, generator=generator)
    ids = torch.randint(0, 20, (2, 4), generator=generator)
    scale = [torch.rand(16, generator=generator)]
    mask = torch.rand(2, 4, 1, generator=generator) > 0.5
    offset = torch.randint(0, 9, (4,), generator=generator, dtype=torch.int32)
    return features, {"ids": ids, "scale": scale}, (mask, offset)


@cache
def program(pooled: bool) -> Program:
    torch.manual_seed(0)
    return capture(Nested(pooled).eval(), inputs())


INPUTS = ["features", "context_ids", "context_scale_0", "pair_0", "pair_1"]
OUTPUTS = ["hidden", "extra_counts", "extra_large_0", "extra_large_1", "states_0", "states_1_0", "states_1_1"]


def feed() -> dict[str, np.ndarray[Any, Any]]:
    features, context, pair = inputs()
    values = (features, context["ids"], context["scale"][0], *pair)
    return {name: value.numpy() for name, value in zip(INPUTS, values, strict=True)}


def lowered(name: str, pooled: bool, folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        require_runtime(get_target(name))
    except TargetError as error:
        pytest.skip(f"{name}: {error}")
    with open_artifact(lower(program(pooled), name, folder)) as session:
        return session.run(feed())


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_nested_values_keep_their_names_dtypes_shapes_and_numbers(name: str, pooled: bool, tmp_path: Path) -> None:
    expected_names = [OUTPUTS[0], *(["pooled"] if pooled else []), *OUTPUTS[1:]]
    assert [spec.name for spec in program(pooled).inputs] == INPUTS
    assert [spec.dtype for spec in program(pooled).inputs] == ["float32", "int64", "float32", "bool", "int32"]
    assert [spec.name for spec in program(pooled).outputs] == expected_names
    expected = {key: value.numpy() for key, value in program(pooled).run(tensors()).items()}
    found = lowered(name, pooled, tmp_path)
    assert list(found) == expected_names
    for key, value in expected.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape), key
        if value.dtype.kind == "f":
            assert sqnr_db(value, found[key]) >= 80.0, key
        else:
            np.testing.assert_array_equal(found[key], value, err_msg=key)


def tensors() -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in feed().items()}


class Passing(nn.Module):
    """Inputs that come out again, and one that nothing reads."""

    def forward(self, x: Tensor, unused: Tensor, flags: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return x, flags, ~flags, x.argmax(-1)


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_nothing_reads_or_changes_stay_in_the_signature(name: str, tmp_path: Path) -> None:
    try:
        require_runtime(get_target(name))
    except TargetError as error:
        pytest.skip(f"{name}: {error}")
    given = {"x": torch.arange(6.0).reshape(2, 3), "unused": torch.ones(2, 3), "flags": torch.tensor([True, False])}
    captured = capture(Passing(), given)
    assert [spec.name for spec in captured.inputs] == ["x", "unused", "flags"]
    expected = captured.run(given)
    with open_artifact(lower(captured, name, tmp_path)) as session:
        found = session.run({key: value.numpy() for key, value in given.items()})
    assert list(found) == [f"output_{place}" for place in range(4)]
    for key, value in expected.items():
        assert str(found[key].dtype) == str(value.dtype).removeprefix("torch."), key
        np.testing.assert_array_equal(found[key], value.numpy(), err_msg=key)
