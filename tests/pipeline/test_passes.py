"""The rewrites before quantization: each fires, refuses with its reason, and leaves alone what it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.pipeline.capture import capture
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.base import Pass, PassReport
from edgewright.pipeline.passes.decompose_attention import DecomposeAttention
from edgewright.pipeline.passes.drop_identities import DropIdentities
from edgewright.pipeline.passes.fold_batchnorm import NORM, FoldBatchnorm
from edgewright.pipeline.passes.fold_constants import FoldConstants
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.program import Program
from tests.small_models import SMALL, captured, folded, quantized, randomize_norms

aten = torch.ops.aten


class Calls(nn.Module):
    """Calls `compute` with its tensors, and holds `parts` so that weights have names."""

    def __init__(self, compute: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


def apply(step: Pass, model: nn.Module, x: Tensor) -> tuple[Program, Program, PassReport]:
    program = capture(model, (x,))
    result = run_passes(program, [step])
    return program, result.program, result.reports[0].report


def targets(program: Program) -> list[Any]:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def run(program: Program, x: Tensor) -> Tensor:
    return next(iter(program.run({program.inputs[0].name: x}).values()))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return randomize_norms(make())


# fold-batchnorm

NORMED = {
    "conv2d without bias": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)),
        (2, 3, 8, 8),
    ),
    "conv2d with bias": (lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)), (2, 3, 8, 8)),
    "conv2d of groups": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)),
        (2, 4, 8, 8),
    ),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5)), (2, 3, 9)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3)), (1, 2, 5, 5, 5)),
    "conv_transpose2d": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 5, 3, 2), nn.BatchNorm2d(5)),
        (2, 3, 6, 6),
    ),
    "linear": (lambda: nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5)), (4, 7)),
    "linear without bias": (lambda: nn.Sequential(nn.Linear(7, 5, bias=False), nn.BatchNorm1d(5)), (4, 7)),
    "norm without affine": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, affine=False)),
        (2, 3, 8, 8),
    ),
    "conv2d with padding same": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3, padding="same"), nn.BatchNorm2d(5)),
        (2, 3, 8, 8),
    ),
}


def randomize_all(model: nn.Module) -> nn.Module:
    """As `randomize_norms`, for norms without weights too."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is None:
            module.running_mean.normal_(0.0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            randomize_norms(module)
    return model.eval()


@pytest.mark.parametrize("case", NORMED)
def test_a_folded_norm_computes_the_same(case: str) -> None:
    torch.manual_seed(3)
    make, shape = NORMED[case]
    model, x = randomize_all(make()), torch.randn(shape)
    program, after, report = apply(FoldBatchnorm(), model, x)
    assert report == PassReport(1)
    assert NORM in targets(program)
    assert NORM not in targets(after)
    assert sqnr_db(run(program, x).numpy(), run(after, x).numpy()) >= 120.0
    norm = model[1]  # type: ignore[index]
    identity = run(after, x) - model[0](x)  # type: ignore[index]
    assert identity.abs().max() > 0.05, f"{norm} changes nothing: the test shows nothing"


def test_every_norm_of_the_small_cnn_is_folded() -> None:
    program = captured("cnn")
    result = run_passes(program, [FoldBatchnorm()])
    assert result.reports[0].report == PassReport(7)
    batches = SMALL["cnn"].batches(4, seed=2)
    before = torch.cat([program.run(batch)["logits"] for batch in batches]).numpy()
    after = torch.cat([result.program.run(batch)["logits"] for batch in batches]).numpy()
    assert sqnr_db(before, after) >= 120.0


def refuses(model: nn.Module, x: Tensor, reason: str) -> None:
    program, after, report = apply(FoldBatchnorm(), model, x)
    assert report.rewrites == 0
    assert [reason in skip.reason for skip in report.skips] == [True], report.skips
    assert after.digest() == program.digest()


def test_a_convolution_with_two_readers_is_not_folded() -> None:
    def both(self: Any, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y

    model = seeded(lambda: Calls(both, conv=nn.Conv2d(3, 5, 3), norm=nn.BatchNorm2d(5)))
    refuses(model, torch.randn(1, 3, 8, 8), "conv2d has other users")


def test_a_norm_without_a_layer_before_it_is_not_folded() -> None:
    refuses(seeded(lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))), torch.randn(1, 3, 4, 4), "no convolution")


def test_a_grouped_transposed_convolution_is_not_folded() -> None:
    model = seeded(lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)))
    refuses(model, torch.randn(1, 4, 5, 5), "grouped transposed")


def test_a_norm_over_another_axis_than_the_linear_layers_is_not_folded() -> None:
    """linear writes [N, 5, 5], the norm's channels are axis 1: sizes agree and numbers would not."""
    model = seeded(lambda: nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5)))
    refuses(model, torch.randn(2, 5, 7), "not on the axis that is normalized")


def test_computed_weights_are_not_folded() -> None:
    model = seeded(
        lambda: Calls(
            lambda self, x: self.norm(F.conv2d(x, self.raw * 2.0)),
            raw=torch.randn(5, 3, 3, 3),
            norm=nn.BatchNorm2d(5),
        )
    )
    refuses(model, torch.randn(1, 3, 8, 8), "computed, not constant")


def test_one_weight_of_two_convolutions_is_folded_for_each() -> None:
    def twice(self: Any, x: Tensor) -> Tensor:
        return self.a(self.conv(x)) + self.b(self.conv(x * 2.0))

    model = seeded(lambda: Calls(twice, conv=nn.Conv2d(2, 3, 3), a=nn.BatchNorm2d(3), b=nn.BatchNorm2d(3)))
    x = torch.randn(1, 2, 6, 6)
    program, after, report = apply(FoldBatchnorm(), model, x)
    assert report.rewrites == 2
    assert sqnr_db(run(program, x).numpy(), run(after, x).numpy()) >= 120.0


# fold-constants


def mask_chain(self: Any, x: Tensor) -> Tensor:
    places = torch.arange(x.shape[1])
    causal = places[None, :] <= places[:, None]
    return x[:, None, :] * causal.to(x.dtype) + torch.cumsum(torch.ones(x.shape[1]), 0)


def test_chains_of_positions_and_masks_become_constants() -> None:
    x = torch.randn(2, 6)
    program = run_passes(capture(Calls(mask_chain), (x,)), [DropIdentities()]).program
    result = run_passes(program, [FoldConstants()])
    after, report = result.program, result.reports[0].report
    assert report.rewrites >= 5
    assert report.skips == ()
    assert {"arange", "le", "cumsum"} <= {str(target).split(".")[1] for target in targets(program)}
    assert {str(target).split(".")[1] for target in targets(after)} <= {"unsqueeze", "slice", "mul", "add"}
    assert torch.equal(run(program, x), run(after, x))


def test_a_constant_above_the_limit_stays_computed_with_the_reason() -> None:
    def wide(self: Any, x: Tensor) -> Tensor:
        return x + torch.zeros(1, 4).expand(64, 4).contiguous() * 1.0

    x = torch.randn(64, 4)
    program, after, report = apply(FoldConstants(limit_bytes=512), Calls(wide), x)
    assert [("1024 bytes, more than 512" in skip.reason) for skip in report.skips][:1] == [True]
    assert torch.equal(run(program, x), run(after, x))
    assert max(tensor.numel() for _, tensor in after.constants()) * 4 <= 512
    larger = run_passes(program, [FoldConstants(limit_bytes=1024)])
    assert larger.reports[0].report.skips == ()
    assert targets(larger.program) == [aten.add.Tensor]


def test_a_weight_above_the_limit_is_folded_when_it_does_not_grow() -> None:
    """A transposed weight takes what the weight takes: folding it costs nothing."""
    model = Calls(lambda self, x: x @ self.w.t().contiguous(), w=torch.randn(64, 64))
    _, after, report = apply(FoldConstants(limit_bytes=16), model, torch.randn(2, 64))
    assert report.skips == ()
    assert targets(after) == [aten.matmul.default]


@pytest.mark.parametrize("name", ["cnn", "encoder"])
def test_quantized_weights_are_never_folded_to_float(name: str) -> None:
    program = quantized(name)
    result = run_passes(program, [FoldConstants()])
    assert result.reports[0].report.rewrites == 0
    assert result.program.weight_bytes() == program.weight_bytes()
    assert result.program.weight_bytes()["int8"] > 90_000


def test_a_weight_in_16_bits_is_never_folded_to_float32() -> None:
    model = Calls(
        lambda self, x: x * (self.short.to(torch.float32) + self.whole.exp()),
        short=torch.ones(6, dtype=torch.float16),
        whole=torch.ones(6),
    )
    x = torch.randn(2, 6)
    program, after, report = apply(FoldConstants(), model, x)
    assert report == PassReport(1)
    assert aten._to_copy.default in targets(after)
    assert aten.exp.default not in targets(after)
    assert after.weight_bytes() == program.weight_bytes() == {"float16": 12, "float32": 24}
    assert torch.equal(run(program, x), run(after, x))


def test_a_graph_without_constants_is_left_alone() -> None:
    program, after, report = apply(FoldConstants(), Calls(lambda self, x: F.relu(x)), torch.randn(3))
    assert report == PassReport(0)
    assert after.digest() == program.digest()


# drop-identities


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x.clone(),
        lambda x: x.contiguous(),
        lambda x: x.reshape(2, 6),
        lambda x: x.expand(2, 6),
        lambda x: x[:, 0:6],
        lambda x: x.to(torch.float32),
        lambda x: F.pad(x, (0, 0)),
        lambda x: x.detach(),
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: x.permute(0, -1),
        lambda x: x.flip([]),
    ],
)
def test_an_operation_that_returns_its_input_is_dropped(compute: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 6)
    _, after, _ = apply(DropIdentities(), Calls(lambda self, x: F.relu(compute(torch.neg(x)))), x)
    assert targets(after) == [aten.neg.default, aten.relu.default]
    assert torch.equal(run(after, x), F.relu(-x))


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x.reshape(3, 4),
        lambda x: x[:, 1:],
        lambda x: x[:, ::2],
        lambda x: x.to(torch.float64).sum(1),
        lambda x: F.pad(x, (1, -1)),
        lambda x: x[:1].expand(2, 6),
        lambda x: x.flip(1),
        lambda x: x.permute(1, 0).sum(1),
    ],
)
def test_an_operation_that_moves_or_converts_is_kept(compute: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 6)
    program, after, _ = apply(DropIdentities(), Calls(lambda self, x: compute(torch.neg(x))), x)
    assert torch.equal(run(after, x), run(program, x))
    assert torch.equal(run(after, x), compute(-x))


def test_the_order_of_no_axes_is_dropped() -> None:
    _, after, _ = apply(DropIdentities(), Calls(lambda self, x: torch.neg(x).permute([])), torch.tensor(2.0))
    assert targets(after) == [aten.neg.default]


def test_a_graph_without_identities_is_left_alone() -> None:
    program, after, report = apply(DropIdentities(), Calls(lambda self, x: x * 2.0), torch.randn(3))
    assert report == PassReport(0)
    assert after.digest() == program.digest()


# decompose-attention


class Attends(nn.Module):
    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.attend = attend

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.attend(query, key, value)


ALLOWED = torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) > 0.4
ALLOWED[:, 0] = True  # a row with nothing allowed has no defined result
ADDED = torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
sdpa = F.scaled_dot_product_attention

ATTENTION: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], int]] = {
    "no mask": (lambda q, k, v: sdpa(q, k, v), 4),
    "a bool mask": (lambda q, k, v: sdpa(q, k, v, attn_mask=ALLOWED), 4),
    "a computed bool mask": (
        lambda q, k, v: sdpa(q, k, v, attn_mask=(k.sum((1, 3)) < 9.0)[:, None, None, :]),
        4,
    ),
    "a float mask": (lambda q, k, v: sdpa(q, k, v, attn_mask=ADDED), 4),
    "a mask of minus infinity": (
        lambda q, k, v: sdpa(q, k, v, attn_mask=torch.where(ALLOWED, 0.0, -torch.inf)),
        4,
    ),
    "is_causal": (lambda q, k, v: sdpa(q, k, v, is_causal=True), 4),
    "a scale": (lambda q, k, v: sdpa(q, k, v, scale=0.7), 4),
    "a scale of zero": (lambda q, k, v: sdpa(q, k, v, scale=0.0), 4),
    "enable_gqa": (lambda q, k, v: sdpa(q, k, v, enable_gqa=True), 2),
    "all together": (lambda q, k, v: sdpa(q, k, v, attn_mask=ALLOWED, scale=0.3, enable_gqa=True), 2),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_spelled_out_attention_equals_pytorchs(case: str) -> None:
    attend, heads = ATTENTION[case]
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 5, 8, generator=generator)
    key, value = (torch.randn(2, heads, 7, 8, generator=generator) for _ in range(2))
    program = capture(Attends(attend), (query, key, value))
    result = run_passes(program, [DecomposeAttention()])
    assert result.reports[0].report == PassReport(1)
    assert aten.scaled_dot_product_attention.default in targets(program)
    assert aten.scaled_dot_product_attention.default not in targets(result.program)
    assert targets(result.program).count(aten.matmul.default) == 2
    feed = {"query": query, "key": key, "value": value}
    expected, got = attend(query, key, value), result.program.run(feed)["output_0"]
    assert torch.isfinite(got).all()
    assert sqnr_db(expected.numpy(), got.numpy()) >= 110.0


def test_a_graph_without_attention_is_left_alone() -> None:
    result = run_passes(captured("mlp"), [DecomposeAttention()])
    assert result.reports[0].report == PassReport(0)
    assert result.program.digest() == captured("mlp").digest()


# All of them


@pytest.mark.parametrize("name", SMALL)
def test_the_preparation_changes_no_output_of_the_small_models(name: str) -> None:
    for batch in SMALL[name].batches(3, seed=8):
        before, after = captured(name).run(batch), folded(name).run(batch)
        for key in before:
            assert sqnr_db(before[key].numpy(), after[key].numpy()) >= 115.0
