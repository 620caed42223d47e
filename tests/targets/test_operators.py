"""Operations on rare arguments: right in the file, or refused before the converter sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.errors import TargetError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.compress import compress
from edgewright.pipeline.lowering import lower
from edgewright.targets import get_target, require_runtime, target_names


class Apply(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def need(name: str) -> None:
    try:
        require_runtime(get_target(name))
    except TargetError as error:
        pytest.skip(f"{name}: {error}")


INTEGERS = torch.arange(12).reshape(1, 3, 4)
MASK = torch.tensor([True, False, True])
REFUSED: dict[str, tuple[tuple[str, ...], Callable[..., Any], tuple[Tensor, ...], str, str]] = {
    "a convolution of integers": (
        ("onnx", "openvino", "coreml", "tflite"),
        lambda x: F.conv1d(x, torch.ones(2, 3, 2, dtype=torch.int64)),
        (INTEGERS,),
        "aten.conv1d.default",
        "no convolution of integers",
    ),
    "a stable sort": (
        ("coreml",),
        lambda x: torch.sort(x, stable=True),
        (torch.rand(3, 4),),
        "aten.sort.stable",
        "order of equal elements",
    ),
    "values put by a mask": (
        ("tflite",),
        lambda x, mask: x.index_put((mask,), torch.zeros(())),
        (torch.rand(3, 4), MASK),
        "aten.index_put.default",
        "not where a mask is true",
    ),
    "a large scatter with arithmetic": (
        ("tflite",),
        lambda x, i, s: x.scatter_reduce(0, i, s, "amax"),
        (torch.rand(3000), torch.zeros(3000, dtype=torch.int64), torch.rand(3000)),
        "aten.scatter_reduce.two",
        "does not compute with what it scatters",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_operation_is_refused_with_its_node_reason_and_way_out(name: str, tmp_path: Path) -> None:
    targets, function, inputs, operation, reason = REFUSED[name]
    program = capture(Apply(function), inputs)
    for target in targets:
        need(target)
        with pytest.raises(TargetError, match=reason) as caught:
            lower(program, target, tmp_path)
        (refusal,) = caught.value.refusals
        assert refusal.op == operation and refusal.node and refusal.way_out


PLACES = torch.tensor([[0, 2], [1, 0], [4, 2]])
RIGHT: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "scatter_add to a part": (lambda x, i, s: x.scatter_add(1, i, s), (torch.rand(5, 5), PLACES, torch.rand(3, 3))),
    "scatter of a larger source": (lambda x, i, s: x.scatter(1, i, s), (torch.rand(3, 5), PLACES, torch.rand(3, 3))),
    "the mean of what is scattered": (
        lambda x, i, s: x.scatter_reduce(0, i, s, "mean", include_self=False),
        (torch.rand(5, 5), PLACES, torch.rand(3, 2)),
    ),
    "the order of no axes": (lambda x: x.permute([]), (torch.tensor(3.0),)),
    "the logarithm of one number": (torch.log, (torch.tensor(3.0),)),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), (torch.linspace(-3, 3, 20),)),
    "the rest of negative integers": (torch.remainder, (torch.arange(-9, 9), torch.tensor([4, -5] * 9))),
    "a copy that nobody waits for": (lambda x: x.to(torch.int32, non_blocking=True), (torch.rand(3) * 9,)),
    "the sum of one number": (lambda x: x.cumsum(0), (torch.tensor(3.0),)),
    "axes flipped that are apart": (lambda x: x.flip(0, 2), (torch.rand(2, 3, 4),)),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in target_names() if name != "onnx"]


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("target", ["onnx", *SLOW])
def test_rare_arguments_give_the_same_numbers(target: str, name: str, tmp_path: Path) -> None:
    need(target)
    function, inputs = RIGHT[name]
    program = compress(capture(Apply(function), inputs), []).program
    with get_target(target).open(lower(program, target, tmp_path)) as session:
        (found,) = session.run(
            {spec.name: tensor.numpy() for spec, tensor in zip(program.inputs, inputs, strict=True)}
        ).values()
    expected = function(*inputs).numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", ["onnx", "openvino", pytest.param("tflite", marks=pytest.mark.slow)])
def test_a_stable_sort_keeps_the_order_of_equal_elements(target: str, tmp_path: Path) -> None:
    need(target)
    x = torch.arange(200).reshape(2, 100) % 5
    program = capture(Apply(lambda x: torch.sort(x, dim=1, descending=True, stable=True)), (x,))
    with get_target(target).open(lower(program, target, tmp_path)) as session:
        found = session.run({program.inputs[0].name: x.numpy()})
    for spec, expected in zip(program.outputs, torch.sort(x, dim=1, descending=True, stable=True), strict=True):
        np.testing.assert_array_equal(found[spec.name], expected.numpy())
