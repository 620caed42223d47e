"""Normalizations, against PyTorch and coremltools' value inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_programs import Array, assert_close, inferred, mb, normal, run

from edgewright.errors import TargetError

GAMMA, BETA = normal(4, seed=2), normal(4, seed=3)
MEAN, VARIANCE = normal(4, seed=4), np.abs(normal(4, seed=5)) + 0.1


def tensors(*arrays: Array) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("opset", ["iOS15", "iOS17"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_batch_norm_equals_torch(dimensions: int, opset: str, tmp_path: Path) -> None:
    x = normal(2, 4, *[3] * dimensions)

    def build(x: object) -> object:
        both = mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=1e-2)
        return [both, mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE, epsilon=1e-2)]

    t, mean, variance, gamma, beta = tensors(x, MEAN, VARIANCE, GAMMA, BETA)
    expected = [
        F.batch_norm(t, mean, variance, gamma, beta, eps=1e-2),
        F.batch_norm(t, mean, variance, eps=1e-2),
    ]
    assert_close(run(build, {"x": x}, tmp_path, opset), [each.numpy() for each in expected])


@pytest.mark.parametrize("dimensions", [1, 2])
def test_instance_norm_equals_torch(dimensions: int, tmp_path: Path) -> None:
    x = normal(2, 4, *[5] * dimensions)
    t, gamma, beta = tensors(x, GAMMA, BETA)
    actual = run(lambda x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=1e-3), {"x": x}, tmp_path)
    assert_close(actual, [F.instance_norm(t, weight=gamma, bias=beta, eps=1e-3).numpy()])


@pytest.mark.parametrize("axes", [[-1], [1, 2], [0, 2]], ids=str)
def test_layer_norm_equals_coremltools(axes: list[int], tmp_path: Path) -> None:
    x = normal(2, 3, 4)
    shape = [x.shape[axis] for axis in axes]

    def build(x: object) -> object:
        gamma, beta = normal(*shape, seed=2), normal(*shape, seed=3)
        return [
            mb.layer_norm(x=x, axes=axes, gamma=gamma, beta=beta, epsilon=1e-3),
            mb.layer_norm(x=x, axes=axes, epsilon=1e-3),
        ]

    assert_close(run(build, {"x": x}, tmp_path), inferred(build, {"x": x}))


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_l2_norm_equals_coremltools(rank: int, tmp_path: Path) -> None:
    x = normal(*[2, 3, 4, 2, 3][-rank:])

    def build(x: object) -> object:
        return mb.l2_norm(x=x, epsilon=1e-2)

    assert_close(run(build, {"x": x}, tmp_path), inferred(build, {"x": x}))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_norm_equals_torch(size: int, tmp_path: Path) -> None:
    x = normal(2, 6, 3, 3)
    expected = F.local_response_norm(torch.from_numpy(x), size, alpha=0.3, beta=0.6, k=1.5).numpy()
    actual = run(lambda x: mb.local_response_norm(x=x, size=size, alpha=0.3, beta=0.6, k=1.5), {"x": x}, tmp_path)
    assert_close(actual, [expected])


def test_even_neighbourhood_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"local_response_norm .*an even size has no stated centre"):
        run(lambda x: mb.local_response_norm(x=x, size=4), {"x": normal(1, 6, 3, 3)}, tmp_path)


def test_float16_layer_norm_is_rounded_once(tmp_path: Path) -> None:
    x = (normal(2, 64) * 30).astype(np.float16)
    (actual,) = run(lambda x: mb.layer_norm(x=x, axes=[-1], epsilon=np.float16(1e-3)), {"x": x}, tmp_path)
    wide = x.astype(np.float64)
    epsilon = np.float64(np.float16(1e-3))
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + epsilon)
    assert np.abs(actual - expected).max() <= 0.51 * np.spacing(np.float16(np.abs(expected).max()))
