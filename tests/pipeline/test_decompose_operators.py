"""Operations that a format lacks become ones that it has, with the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.pipeline.capture import capture
from edgewright.pipeline.passes.base import PassReport
from edgewright.pipeline.passes.decompose_operators import DecomposeOperators
from edgewright.pipeline.passes.fold_constants import FoldConstants
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.program import Program
from edgewright.targets.coreml.rules import RULES as COREML
from edgewright.targets.onnx.rules import RULES as ONNX
from edgewright.targets.tflite.rules import RULES as TFLITE

aten = torch.ops.aten


class Apply(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def operations(program: Program) -> list[object]:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


CASES: dict[str, tuple[Any, Callable[..., Any], tuple[Tensor, ...]]] = {
    "amax": (ONNX, torch.amax, (normal(2, 3),)),
    "amax of one number": (ONNX, torch.amax, (normal(),)),
    "addmm of integers": (
        ONNX,
        lambda a, b, c: torch.addmm(a, b, c, beta=2, alpha=3),
        (torch.arange(3), torch.arange(6).reshape(2, 3), torch.arange(9).reshape(3, 3)),
    ),
    "argmax": (COREML, torch.argmax, (normal(2, 3),)),
    "argmin with axes": (COREML, lambda x: torch.argmin(x, keepdim=True), (normal(2, 3),)),
    "avg_pool2d": (
        ONNX,
        lambda x: F.avg_pool2d(x, (6, 6), 3, (2, 3), True, True, 2),
        (normal(2, 3, 9, 10),),
    ),
    "adaptive_avg_pool3d": (ONNX, lambda x: F.adaptive_avg_pool3d(x, (5, 7, 4)), (normal(2, 8, 8, 8),)),
    **{
        f"cdist {p}": (ONNX, lambda a, b, p=p: torch.cdist(a, b, p), (normal(2, 4, 3), normal(2, 5, 3)))
        for p in (0.0, 1.0, 2.0, 3.5, math.inf)
    },
    "pdist": (ONNX, lambda x: F.pdist(x, 1.5), (normal(4, 3),)),
    "clamp": (COREML, torch.clamp, (normal(4, 3), normal(3), normal(4, 1))),
    "clamp from above": (COREML, lambda x, most: torch.clamp(x, max=most), (normal(4, 3), normal(3))),
    **{
        f"diagonal {arguments}": (COREML, lambda x, a=arguments: torch.diagonal(x, *a), (normal(3, 4, 5),))
        for arguments in ((0, 0, 1), (1, 0, 2), (-2, 1, 2), (2, -1, 0))
    },
    "as_strided": (COREML, lambda x: torch.as_strided(x, (2, 2), (1, 2), 1), (normal(3, 3),)),
    "fmod": (COREML, torch.fmod, (normal(30) * 5, normal(30))),
    "fmod of integers": (COREML, lambda x: torch.fmod(x, -2), (torch.arange(-9, 9),)),
    "asinh": (COREML, torch.asinh, (normal(30) * 5,)),
    "acosh": (COREML, torch.acosh, (normal(30).abs() * 5,)),
    "reciprocal": (COREML, torch.reciprocal, (normal(9),)),
    "isinf": (COREML, torch.isinf, (torch.tensor([1, math.inf, -math.inf, math.nan]),)),
    "logical_xor": (TFLITE, torch.logical_xor, (torch.tensor([0.0, 1, 2, 0]), torch.tensor([0.0, 3, 0, 1]))),
    "masked_scatter": (TFLITE, torch.masked_scatter, (normal(3, 4), normal(3, 4) > 0, normal(20))),
    "native_layer_norm": (
        COREML,
        lambda x: torch.native_layer_norm(x, [4], None, None, 1e-5),
        (normal(3, 4),),
    ),
    "native_group_norm": (
        COREML,
        lambda x: torch.native_group_norm(x, None, None, 2, 4, 3, 2, 1e-5),
        (normal(2, 4, 3),),
    ),
    "index_select of one number": (TFLITE, lambda x, i: x.index_select(0, i), (normal(), torch.tensor([0]))),
    **{
        f"max_pool2d with indices {arguments}": (
            TFLITE,
            lambda x, a=arguments: F.max_pool2d(x, *a, return_indices=True),
            (normal(1, 2, 7, 6),),
        )
        for arguments in ((3, 2, 0, 1, True), (3, 2, 1, 1, True), ((3, 2), None, (1, 0), (1, 2), False))
    },
    **{
        f"embedding_bag {mode} {padding}": (
            TFLITE,
            lambda ids, w, mode=mode, padding=padding: F.embedding_bag(
                ids, w, torch.tensor([0, 2, 2, 5]), mode=mode, padding_idx=padding
            ),
            (torch.tensor([3, 1, 3, 3, 3, 0, 5, 2]), normal(6, 4)),
        )
        for mode in ("sum", "mean", "max")
        for padding in (None, 3)
    },
    "embedding_bag with weights": (
        TFLITE,
        lambda ids, w, s: F.embedding_bag(ids, w, mode="sum", per_sample_weights=s),
        (torch.tensor([[3, 1], [0, 5]]), normal(6, 4), normal(2, 2)),
    ),
    "sin of integers": (COREML, torch.sin, (torch.arange(-9, 9),)),
    "amax of booleans": (COREML, lambda x: torch.amax(x, 1), (normal(3, 4) > 0,)),
    "gt of booleans": (COREML, torch.gt, (normal(3, 4) > 0, normal(4) > 0)),
    "gt of a boolean and a number": (TFLITE, torch.gt, (normal(3, 4) > 0, normal(4))),
    "floor of integers": (TFLITE, torch.floor, (torch.arange(-9, 9),)),
    "abs of 64-bit integers": (TFLITE, torch.abs, (torch.tensor([-(2**40), 3]),)),
    "bmm of integers": (TFLITE, torch.bmm, (torch.arange(12).reshape(2, 2, 3), torch.arange(24).reshape(2, 3, 4))),
    "div of floats, rounded down": (
        TFLITE,
        lambda a, b: torch.div(a, b, rounding_mode="floor"),
        (normal(30) * 9, torch.cat([normal(29), torch.zeros(1)])),
    ),
    "fmod of 64-bit integers": (
        TFLITE,
        torch.fmod,
        (torch.arange(-9, 9), torch.tensor([3, -4] * 9)),
    ),
    "hardtanh of integers": (COREML, lambda x: F.hardtanh(x, -2, 3), (torch.arange(-9, 9),)),
    "hardtanh of integers, fractional": (TFLITE, lambda x: F.hardtanh(x, -0.5, 2.5), (torch.arange(-9, 9),)),
    "reshape to no axes": (COREML, lambda x: x.reshape([]), (normal(1, 1),)),
    "maximum of booleans": (COREML, torch.maximum, (normal(3, 4) > 0, normal(4) > 0)),
    "max of booleans": (COREML, lambda x: torch.max(x, 1), (torch.eye(3) > 0,)),
    "scatter of booleans": (
        COREML,
        lambda x, i, s: x.scatter(1, i, s),
        (normal(3, 4) > 0, torch.tensor([[0, 2], [1, 3]]), normal(2, 2) > 0),
    ),
    "relu of integers": (COREML, torch.relu, (torch.arange(-9, 9),)),
    "sign of 64-bit integers": (TFLITE, torch.sign, (torch.tensor([-(2**40), 0, 3]),)),
    "pad of replicas, negative": (COREML, lambda x: F.pad(x, (-2, 1, 1, -1), mode="replicate"), (normal(1, 2, 4, 5),)),
    **{
        f"pad {amounts} of {shape} by reflection": (
            TFLITE,
            lambda x, amounts=amounts: F.pad(x, amounts, mode="reflect"),
            (normal(*shape),),
        )
        for shape, amounts in (
            ((2, 5), (2, 1)),
            ((2, 3, 5), (2, 1)),
            ((2, 3, 5), (-1, 4)),
            ((2, 4, 5), (2, 1, 0, 1)),
            ((1, 2, 4, 5), (4, -2, -1, -1)),
            ((2, 5, 4, 6), (2, 1, 3, 1, 0, 4)),
            ((2, 3, 5, 4, 6), (2, -1, 1, 0, 3, -2)),
        )
    },
    "scatter_add": (
        TFLITE,
        lambda x, i, s: x.scatter_add(0, i, s),
        (normal(5, 4), torch.tensor([[0, 2], [4, 2], [4, 0]]), normal(3, 3)),
    ),
    "scatter_add of 32-bit integers": (
        TFLITE,
        lambda x, i, s: x.scatter_add(0, i, s),
        (torch.arange(5, dtype=torch.int32), torch.tensor([0, 2, 2]), torch.arange(3, dtype=torch.int32)),
    ),
    "scatter_add of one number": (ONNX, lambda x, i, s: x.scatter_add(0, i, s), (normal(), torch.tensor(0), normal())),
    **{
        f"scatter_reduce {how} {whole} of {values.dtype}": (
            TFLITE,
            lambda x, i, s, how=how, whole=whole: x.scatter_reduce(0, i, s, how, include_self=whole),
            (values, torch.tensor([[0, 2], [4, 2], [4, 0]]), values[1:4, :3] - 1),
        )
        for how in ("sum", "prod", "mean", "amax", "amin")
        for whole in (True, False)
        for values in (normal(5, 4), torch.arange(-9, 11, dtype=torch.int32).reshape(5, 4))
    },
    **{
        f"mean by scatter_reduce {whole} of {values.dtype}": (
            ONNX,
            lambda x, i, s, whole=whole: x.scatter_reduce(0, i, s, "mean", include_self=whole),
            (values, torch.tensor([[0, 2], [4, 2], [4, 0]]), values[1:4, :3] - 1),
        )
        for whole in (True, False)
        for values in (normal(5, 4), torch.arange(-9, 11, dtype=torch.int32).reshape(5, 4))
    },
    **{
        f"scatter, {how}, {target}": (
            rules,
            lambda x, i, s, how=how: x.scatter(1, i, s, reduce=how),
            (normal(5, 4), torch.tensor([[0, 2], [1, 1]]), normal(2, 3)),
        )
        for how in ("add", "multiply")
        for target, rules in (("onnx", ONNX), ("coreml", COREML), ("tflite", TFLITE))
    },
    "scatter of a number, add": (
        ONNX,
        lambda x, i: x.scatter(1, i, 0.5, reduce="add"),
        (normal(5, 4), torch.tensor([[0, 2], [1, 1]])),
    ),
    "scatter to a part": (
        COREML,
        lambda x, i, s: x.scatter(1, i, s),
        (normal(3, 4), torch.tensor([[3, 1]]), normal(2, 2)),
    ),
    "index_put, accumulated": (
        TFLITE,
        lambda x, i, v: x.index_put((i,), v, accumulate=True),
        (normal(5, 4), torch.tensor([[1, -1], [1, 0]]), normal(2, 4)),
    ),
    **{
        f"flip of {axes}": (TFLITE, lambda x, axes=axes: x.flip(axes), (normal(2, 3, 4),)) for axes in ((0, 2), (-1, 0))
    },
    "log of one number": (COREML, torch.log, (torch.tensor(0.0),)),
    "cumsum of one number": (COREML, lambda x: x.cumsum(0), (normal(),)),
    **{
        f"sort, stable is {stable}, {target}": (
            rules,
            lambda x, stable=stable: torch.sort(x, dim=1, descending=True, stable=stable),
            (normal(3, 9),),
        )
        for target, rules, stable in (
            ("onnx", ONNX, False),
            ("onnx", ONNX, True),
            ("coreml", COREML, False),
            ("tflite", TFLITE, True),
        )
    },
    "sort of one boolean": (TFLITE, torch.sort, (torch.tensor(True),)),
    **{
        f"sort {descending}": (TFLITE, lambda x, d=descending: torch.sort(x, 0, d), (normal(6, 4),))
        for descending in (False, True)
    },
    "sort of integers": (TFLITE, lambda x: torch.sort(x).values, (torch.arange(9) % 4,)),
    "var of all": (COREML, lambda x: torch.var(x), (normal(6, 4),)),
    "std of all": (COREML, lambda x: torch.std(x, dim=(0, 1), correction=3, keepdim=True), (normal(6, 4),)),
    "interpolate by a fraction": (TFLITE, lambda x: F.interpolate(x, scale_factor=(1.7, 0.6)), (normal(1, 2, 5, 7),)),
    "interpolate to a size": (TFLITE, lambda x: F.interpolate(x, (3, 10)), (normal(1, 2, 5, 7),)),
    "max_pool2d rounded up": (TFLITE, lambda x: F.max_pool2d(x, 3, 2, 1, 1, True), (normal(1, 2, 8, 6),)),
    "max_pool3d with indices": (
        COREML,
        lambda x: F.max_pool3d(x, 3, 2, 1, 1, True, return_indices=True),
        (normal(2, 7, 6, 5),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_gives_the_same_numbers_in_another_form(name: str) -> None:
    rules, function, inputs = CASES[name]
    program = capture(Apply(function), inputs)
    done = run_passes(program, [DecomposeOperators(rules), FoldConstants()])
    assert done.reports[0].report == PassReport(1)
    assert done.program.digest() != program.digest()
    if name == "reciprocal":  # `1 / x` in Python is one again
        assert aten.reciprocal.default not in operations(done.program)
    feed = dict(zip((spec.name for spec in program.inputs), inputs, strict=True))
    expected, found = program.run(feed), done.program.run(feed)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.amax(x, 1),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.max_pool2d(x, 2),
        lambda x: torch.argmax(x, 1),
        lambda x: x.flip(1, 2),
        lambda x: x.scatter(1, torch.zeros(2, 3, 4, 4, dtype=torch.int64), x),
    ],
)
def test_arguments_that_every_format_takes_are_left_alone(function: Callable[[Tensor], Tensor]) -> None:
    program = capture(Apply(function), (normal(2, 3, 4, 4),))
    rules = tuple({**dict(ONNX), **dict(COREML), **dict(TFLITE)}.items())
    done = run_passes(program, [DecomposeOperators(rules)])
    assert done.reports[0].report == PassReport(0)
    assert done.program.digest() == program.digest()


TRANSPOSED: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], dict[str, Any]]] = {
    "1-d": (F.conv_transpose1d, (normal(1, 4, 7), normal(4, 3, 3), normal(3)), {"stride": 2, "padding": 1}),
    "1-d, output padding": (
        F.conv_transpose1d,
        (normal(2, 4, 7), normal(4, 3, 4)),
        {"stride": 3, "padding": 2, "output_padding": 2},
    ),
    "2-d": (F.conv_transpose2d, (normal(1, 4, 5, 6), normal(4, 3, 4, 4), normal(3)), {"stride": 2, "padding": 1}),
    "2-d, one axis padded, groups": (
        F.conv_transpose2d,
        (normal(1, 4, 5, 6), normal(4, 3, 3, 3), normal(6)),
        {"stride": 2, "padding": (0, 1), "output_padding": (0, 1), "groups": 2},
    ),
    "2-d, dilated": (F.conv_transpose2d, (normal(1, 2, 5, 6), normal(2, 3, 3, 2)), {"padding": (2, 1), "dilation": 2}),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_a_padded_transposed_convolution_is_a_crop_of_the_whole(name: str) -> None:
    operation, (x, *weights), settings = TRANSPOSED[name]
    program = capture(Apply(lambda data: operation(data, *weights, **settings)), (x,))
    done = run_passes(program, [DecomposeOperators(TFLITE)])
    assert done.reports[0].report == PassReport(1)
    (layer,) = (node for node in done.program.graph.nodes if "conv_transpose" in str(node.target))
    assert not any(size for sizes in layer.args[4:6] for size in sizes)  # no padding, none of the output either
    feed = {program.inputs[0].name: x}
    (expected,), (found,) = program.run(feed).values(), done.program.run(feed).values()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{"stride": 2}, {"stride": 3, "padding": 1, "output_padding": 2}])
def test_a_transposed_convolution_that_no_crop_gives_is_left_alone(settings: dict[str, int]) -> None:
    weight = normal(4, 3, 3, 3)
    program = capture(Apply(lambda x: F.conv_transpose2d(x, weight, **settings)), (normal(1, 4, 5, 6),))
    done = run_passes(program, [DecomposeOperators(TFLITE)])
    assert done.reports[0].report == PassReport(0)
    assert done.program.digest() == program.digest()


def test_the_indices_of_a_rule_become_constants() -> None:
    program = capture(Apply(torch.diagonal), (normal(3, 3),))
    done = run_passes(program, [DecomposeOperators(COREML), FoldConstants()]).program
    assert [target for target in operations(done) if target is aten.index_select.default]
    assert aten.arange.default not in operations(done)
    (constant,) = (tensor for _, tensor in done.constants())
    assert constant.tolist() == [0, 4, 8]
