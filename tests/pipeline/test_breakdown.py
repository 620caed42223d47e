"""What each module of a compressed program got."""

from __future__ import annotations

import pytest
import torch

import edgewright as ew
from edgewright.pipeline.breakdown import ModuleShare, break_down
from edgewright.pipeline.passes.runner import Compressed
from edgewright.pipeline.program import Program
from tests.small_models import SMALL, captured
from tests.vision_language import POLICY, VisionLanguage, batches, step


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return ew.capture(VisionLanguage().eval(), batches(1)[0])


def shares_of(program: Program, compressed: Compressed) -> dict[str, ModuleShare]:
    found = break_down(program, compressed.program, compressed.floats, batches(2))
    return {share.module: share for share in found}


def test_schemes_and_bytes_are_those_of_the_recipe(program: Program) -> None:
    found = shares_of(program, ew.compress(program, POLICY, batches=batches(16)))
    assert {module: dict(share.schemes) for module, share in found.items()} == {
        "vision.patches": {"w8a8": 1},
        "vision.block.attention": {"fp16": 2},
        "vision.block.mlp": {"w8a8": 2},
        "projector": {"w8a8": 1},
        "language.embed": {"w8": 1},
        "language.block.attention": {"w4g32": 2},
        "language.block.mlp": {"w4g32": 2},
        "language.head": {"w8": 1},
    }
    small = 4 * (256 + 64 + 2 * 64)  # biases, and the norm before it
    assert found["language.block.mlp"].float32_bytes == 4 * 2 * 64 * 256 + small
    assert found["language.block.mlp"].bytes == 2 * 64 * 256 // 2 + 4 * 2 * 64 * 256 // 32 + small
    assert all(share.bytes < share.float32_bytes for share in found.values())


def test_a_module_that_is_alone_in_few_bits_has_all_of_the_error(program: Program) -> None:
    found = shares_of(program, ew.compress(program, [step("w4", "language.head")]))
    assert found.pop("language.head").error_share == pytest.approx(1.0)
    assert all(share.error_share == 0.0 for share in found.values())


def test_the_coarser_module_has_the_larger_share(program: Program) -> None:
    recipe = [step("w8", "language.block.attention.*"), step("w2g32", "language.block.mlp.*")]
    found = shares_of(program, ew.compress(program, recipe))
    assert found["language.block.mlp"].error_share > 0.9
    assert found["language.block.attention"].error_share < 0.1


def test_rounded_activations_belong_to_the_layers_that_read_them(program: Program) -> None:
    compressed = ew.compress(program, [step("w8a8", "vision.*")], batches=batches(16))
    found = shares_of(program, compressed)
    inside = [share.error_share for module, share in found.items() if module.startswith("vision.")]
    assert sum(inside) == pytest.approx(1.0, abs=1e-3)
    assert all(share.error_share < 1e-3 for module, share in found.items() if module.startswith("language."))


def test_rows_rounded_at_run_time_count_as_the_layers_error(program: Program) -> None:
    recipe = [{"pass": "quantize", "scheme": "w8a8-dynamic", "modules": "projector|language.head"}]
    found = shares_of(program, ew.compress(program, recipe))
    assert dict(found["projector"].schemes) == dict(found["language.head"].schemes) == {"w8a8-dynamic": 1}
    assert found["projector"].error_share + found["language.head"].error_share == pytest.approx(1.0, abs=0.1)


def test_an_uncompressed_program_has_no_error_to_share(program: Program) -> None:
    found = shares_of(program, ew.compress(program, []))
    assert {name for share in found.values() for name in share.schemes} == {"fp32"}
    assert all(share.error_share == 0.0 and share.bytes == share.float32_bytes for share in found.values())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_small_model_has_a_breakdown(name: str) -> None:
    model = SMALL[name]
    compressed = ew.compress(captured(name), [{"pass": "quantize", "scheme": "w8a8"}], batches=model.batches(8))
    found = break_down(captured(name), compressed.program, compressed.floats, model.batches(2))
    assert sum(sum(share.schemes.values()) for share in found) >= 3
    assert max(share.error_share for share in found) > 0.1
