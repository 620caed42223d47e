"""Matrix products, against coremltools' value inference and PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_programs import assert_close, inferred, mb, normal, run

from edgewright.errors import TargetError


@pytest.mark.parametrize("opset", ["iOS15", "iOS17"])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)], ids=str)
def test_linear_equals_coremltools(shape: tuple[int, ...], opset: str, tmp_path: Path) -> None:
    w, b = normal(5, 4, seed=1), normal(5, seed=2)

    def build(x: object) -> object:
        return [mb.linear(x=x, weight=w, bias=b), mb.linear(x=x, weight=w)]

    x = normal(*shape)
    assert_close(run(build, {"x": x}, tmp_path, opset), [x @ w.T + b, x @ w.T])


@pytest.mark.parametrize("transpose_y", [True, False])
@pytest.mark.parametrize("transpose_x", [True, False])
def test_matmul_equals_coremltools(transpose_x: bool, transpose_y: bool, tmp_path: Path) -> None:
    inputs = {
        "x": normal(2, 1, *((4, 3) if transpose_x else (3, 4))),
        "y": normal(5, *((6, 4) if transpose_y else (4, 6)), seed=1),
    }

    def build(x: object, y: object) -> object:
        return mb.matmul(x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y)

    assert_close(run(build, inputs, tmp_path), inferred(build, inputs))


def test_matmul_promotes_a_vector(tmp_path: Path) -> None:
    x, y = normal(4), normal(2, 4, 3, seed=1)
    assert_close(run(lambda x, y: mb.matmul(x=x, y=y), {"x": x, "y": y}, tmp_path), [x @ y])


def test_integer_matmul_is_exact(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(-1000, 1000, (3, 40)).astype(np.int32)
    (actual,) = run(lambda x: mb.matmul(x=x, y=x, transpose_y=True), {"x": x}, tmp_path)
    np.testing.assert_array_equal(actual, x @ x.T)


def test_constant_integers_multiply_floats(tmp_path: Path) -> None:
    x, y = normal(3, 4), np.arange(8, dtype=np.int32).reshape(4, 2)
    assert_close(run(lambda x: mb.matmul(x=x, y=y), {"x": x}, tmp_path), [x @ y])


def test_integers_by_constant_floats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"matmul .*no stated rounding"):
        run(lambda x: mb.matmul(x=x, y=normal(4, 2)), {"x": np.ones((3, 4), np.int32)}, tmp_path)


@pytest.mark.parametrize(
    ("equation", "x_shape", "y_shape"),
    [("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 6)), ("chw,whr->chr", (3, 4, 5), (5, 4, 6))],
)
def test_einsum_equals_coremltools(
    equation: str, x_shape: tuple[int, ...], y_shape: tuple[int, ...], tmp_path: Path
) -> None:
    inputs = {"x": normal(*x_shape), "y": normal(*y_shape, seed=1)}

    def build(x: object, y: object) -> object:
        return mb.einsum(values=(x, y), equation=equation)

    assert_close(run(build, inputs, tmp_path), [np.einsum(equation, *inputs.values())])


@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_attention_equals_torch(mask: str | None, tmp_path: Path) -> None:
    inputs = {"q": normal(2, 3, 5, 8), "k": normal(2, 3, 6, 8, seed=1), "v": normal(2, 3, 6, 4, seed=2)}
    added = normal(1, 1, 5, 6, seed=3)
    kept = added > -0.5

    def build(q: object, k: object, v: object) -> object:
        masks = {None: None, "float": added, "bool": kept}
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=masks[mask])

    torch_mask = {None: None, "float": torch.from_numpy(added), "bool": torch.from_numpy(kept)}[mask]
    q, k, v = (torch.from_numpy(each) for each in inputs.values())
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=torch_mask)
    assert_close(run(build, inputs, tmp_path), [expected.numpy()])
