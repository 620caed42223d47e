"""Palettes: k-means of weights, the pass, and what stands in the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import edgewright as ew
from edgewright.errors import CalibrationError, RecipeError
from edgewright.pipeline.encoding import nearest_scheme
from edgewright.pipeline.handover import load_program, save_program
from edgewright.pipeline.look_up import LOOK_UP, look_up
from edgewright.pipeline.metrics import sqnr_db
from edgewright.pipeline.passes.stored_palettes import stored_palettes
from edgewright.pipeline.program import Program
from edgewright.pipeline.rounding.grid import Grid
from edgewright.pipeline.rounding.kmeans import cluster
from edgewright.pipeline.rounding.palette import Palette


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def restored(palette: Palette, rows: Tensor, importance: Tensor | None = None) -> Tensor:
    tables = palette.tables(rows, importance)
    indices = palette.indices(rows, tables).reshape(len(tables), -1)
    return torch.stack([table[places.long()] for table, places in zip(tables, indices, strict=True)]).reshape(
        rows.shape
    )


# k-means


@given(bits=st.integers(2, 6), heavy=st.booleans(), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_palette_errs_less_than_even_steps_of_as_many_bits(bits: int, heavy: bool, seed: int) -> None:
    weight = normal(seed, 24, 40) ** (3 if heavy else 1) * 10.0 ** (seed % 7 - 3)
    flat = weight.reshape(1, -1)
    grid = Grid(bits, search=True)
    scales = grid.scales(flat)
    even = (grid.round(flat, scales) * scales - flat).square().sum()
    assert (restored(Palette(bits), weight) - weight).square().sum() <= even * 1.0001


@given(count=st.integers(2, 4), size=st.integers(5, 12), seed=st.integers(0, 10**6), weighted=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_clusters_of_few_numbers_are_the_best_there_are(count: int, size: int, seed: int, weighted: bool) -> None:
    values = np.sort(normal(seed, size).numpy())
    weights = np.abs(normal(seed + 1, size).numpy()) + 0.1 if weighted else np.ones(size, dtype=np.float32)

    def least(start: int, clusters: int) -> float:
        if start == size:
            return 0.0
        if not clusters:
            return float("inf")
        found = float("inf")
        for end in range(start + 1, size + 1):
            part, mass = values[start:end].astype(float), weights[start:end]
            error = float((mass * (part - np.average(part, weights=mass)) ** 2).sum())
            found = min(found, error + least(end, clusters - 1))
        return found

    centers = cluster(values[None], count, weights[None] if weighted else None)[0]
    error = (weights * (np.abs(values[:, None] - centers).min(1) ** 2)).sum()
    assert error <= least(0, count) * 1.001 + 1e-9


@pytest.mark.parametrize("different", [1, 3, 255, 256])
def test_as_many_values_as_the_table_has_are_kept_exactly(different: int) -> None:
    values = normal(0, different)
    weight = values[torch.randint(0, different, (64, 32), generator=torch.Generator().manual_seed(1))]
    assert torch.equal(restored(Palette(8), weight), weight)
    assert torch.equal(restored(Palette(8), weight, torch.rand(32)), weight)


def test_the_same_numbers_give_the_same_table_whatever_their_order() -> None:
    weight = normal(0, 100, 100)
    table = Palette(4).tables(weight)
    assert torch.equal(Palette(4).tables(weight.clone()), table)
    shuffled = weight.flatten()[torch.randperm(10_000, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(Palette(4).tables(shuffled.reshape(100, 100)), table)
    assert bool((table[0, :, 0].diff() > 0).all())


def test_many_numbers_come_near_the_known_optimum() -> None:
    """Of 16 levels for a normal distribution: 0.009497 (Max 1960, IRE Trans. Inf. Theory 6(1), table I)."""
    weight = normal(0, 1000, 1000)
    error = float((restored(Palette(4), weight) - weight).square().mean())
    assert error == pytest.approx(0.009497, rel=0.01)


def test_groups_of_rows_have_tables_of_their_own() -> None:
    weight = normal(0, 4, 50) * torch.tensor([1.0, 1.0, 100.0, 100.0])[:, None]
    apart = restored(Palette(3, group=2), weight)
    assert torch.equal(apart[:2], restored(Palette(3), weight[:2]))
    assert torch.equal(apart[2:], restored(Palette(3), weight[2:]))


def test_important_columns_err_less() -> None:
    weight = normal(0, 64, 8)
    importance = torch.tensor([100.0] + [1.0] * 7)
    plain, weighted = restored(Palette(3), weight), restored(Palette(3), weight, importance)
    errors = [(found - weight).square()[:, 0].sum() for found in (plain, weighted)]
    assert errors[1] < 0.8 * errors[0]
    assert ((weighted - weight).square() * importance).sum() < ((plain - weight).square() * importance).sum()


@given(bits=st.sampled_from([4, 6, 8]), heavy=st.booleans(), seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_pairs_of_weights_err_less_than_single_ones_of_as_many_bits(bits: int, heavy: bool, seed: int) -> None:
    weight = normal(seed, 64, 80) ** (3 if heavy else 1)
    single = (restored(Palette(bits // 2), weight) - weight).square().sum()
    assert (restored(Palette(bits, vector=2), weight) - weight).square().sum() <= single * 1.0001


def test_vectors_are_the_same_for_the_same_seed_and_exact_where_the_table_holds_all() -> None:
    weight = normal(0, 64, 80)
    assert torch.equal(Palette(6, vector=4).tables(weight), Palette(6, vector=4).tables(weight))
    few = normal(1, 5, 4)[torch.randint(0, 5, (16, 20), generator=torch.Generator().manual_seed(1))].flatten(1)
    torch.testing.assert_close(restored(Palette(3, vector=4), few), few)


# The operation


def test_a_look_up_takes_the_table_of_its_block_and_lays_vectors_along_the_axis() -> None:
    indices = torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)
    tables = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert torch.equal(look_up(indices, tables.reshape(2, 1, 2, 1)), torch.tensor([[1.0, 2.0], [4.0, 3.0]]))
    assert torch.equal(look_up(indices, tables.reshape(1, 2, 2, 1)), torch.tensor([[1.0, 4.0], [2.0, 3.0]]))
    pairs = look_up(indices, tables.reshape(1, 1, 2, 2), 1)
    assert torch.equal(pairs, torch.tensor([[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 1.0, 2.0]]))
    pairs = look_up(indices, tables.reshape(1, 1, 2, 2), 0)
    assert torch.equal(pairs, torch.tensor([[1.0, 3.0], [2.0, 4.0], [3.0, 1.0], [4.0, 2.0]]))


def test_the_operation_keeps_the_contract_of_pytorch() -> None:
    indices = torch.randint(0, 4, (4, 3, 2), dtype=torch.uint8)
    for shape, axis in (((2, 1, 1, 4, 1), 0), ((1, 1, 1, 4, 2), 1)):
        torch.library.opcheck(LOOK_UP, (indices, torch.randn(shape), axis))


# The pass


class Reader(nn.Module):
    """An embedding, a convolution, layers whose channels groups of 16 divide or not, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(48, 64)
        self.up, self.odd = nn.Linear(64, 40), nn.Linear(40, 64)
        self.mix, self.small = nn.Conv1d(64, 64, 3, padding=1), nn.Linear(64, 64)
        self.spread = nn.ConvTranspose1d(64, 32, 2, 2)
        self.head = nn.Linear(64, 48, bias=False)
        self.head.weight = self.table.weight
        self.tiny = nn.Linear(48, 4)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.table(ids)
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
        x = self.odd(torch.relu(self.up(x)))
        return {"spread": self.spread(self.small(x).transpose(1, 2)), "scores": self.tiny(self.head(x))}


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return ew.capture(Reader().eval(), (torch.randint(0, 48, (2, 7)),))


def ids(seed: int = 1) -> dict[str, Tensor]:
    return {"ids": torch.randint(0, 48, (2, 7), generator=torch.Generator().manual_seed(seed))}


def compressed(program: Program, scheme: str, **settings: Any) -> Program:
    return ew.compress(program, [{"pass": "quantize", "scheme": scheme, **settings}]).program


def error_db(one: Program, other: Program) -> float:
    return min(sqnr_db(value.numpy(), other.run(ids())[name].numpy()) for name, value in one.run(ids()).items())


def skips_of(result: Any) -> dict[str, str]:
    return {skip.node: skip.reason for ran in result.reports for skip in ran.report.skips}


def test_every_layer_reads_a_palette_and_a_tied_weight_is_stored_once(program: Program) -> None:
    found = compressed(program, "p4")
    stored = stored_palettes(found)
    assert sorted(len(palette.node.users) for palette in stored) == [1, 1, 1, 1, 1, 2], (
        "the table and the head share one"
    )
    assert {(palette.bits, palette.tables, palette.vector) for palette in stored} == {(4, 1, 1)}
    assert error_db(program, found) > 12


def test_indices_count_at_their_bits_and_tables_as_floats(program: Program) -> None:
    for bits in (1, 3, 4, 6, 8):
        found = compressed(program, f"p{bits}", minimum_elements=2000)
        stored = stored_palettes(found)
        sizes = found.weight_bytes()
        assert sizes[f"uint{bits}"] == sum(palette.indices.numel() * bits // 8 for palette in stored)
        kept = sum(t.numel() for t in found.tensors().values() if t.is_floating_point())
        assert sizes["float32"] == 4 * kept


def test_more_bits_err_less(program: Program) -> None:
    errors = [error_db(program, compressed(program, f"p{bits}")) for bits in (1, 2, 3, 4, 5, 6, 7, 8)]
    assert errors == sorted(errors)


def test_groups_that_do_not_pay_or_do_not_divide_become_one_table(program: Program) -> None:
    result = ew.compress(program, [{"pass": "quantize", "scheme": "p4", "group": 16}])
    skips = skips_of(result)
    assert "40 channels are no multiple of 16: it got one table" in skips["up.weight"]
    tables = {palette.node.args[0].target.split("_")[0]: palette for palette in stored_palettes(result.program)}
    assert {name: palette.tables for name, palette in tables.items()} == {
        "head": 3,
        "mix": 4,
        "up": 1,
        "odd": 4,
        "small": 4,
        "spread": 2,
    }
    assert tables["spread"].table.shape == (1, 2, 1, 16, 1), "a transposed convolution has its outputs second"
    many = skips_of(ew.compress(program, [{"pass": "quantize", "scheme": "p8", "group": 1}]))
    assert "64 tables take more than the indices save: it got one" in many["small.weight"]


def test_vectors_lie_along_the_inputs(program: Program) -> None:
    result = ew.compress(program, [{"pass": "quantize", "scheme": "p6", "vector": 2, "group": 32}])
    stored = {palette.node.args[0].target.split("_")[0]: palette for palette in stored_palettes(result.program)}
    shapes = {name: (tuple(palette.indices.shape), tuple(palette.table.shape)) for name, palette in stored.items()}
    assert shapes["mix"] == ((64, 32, 3), (2, 1, 1, 64, 2))
    assert shapes["spread"] == ((32, 32, 2), (1, 1, 1, 64, 2)), "a transposed convolution has its inputs first"
    assert shapes["up"] == ((40, 32), (1, 1, 64, 2))
    assert error_db(program, result.program) > error_db(program, compressed(program, "p3"))
    many = skips_of(ew.compress(program, [{"pass": "quantize", "scheme": "p4", "vector": 3}]))
    assert "64 inputs are no multiple of 3: each weight got an index" in many["mix.weight"]


def test_what_a_table_outweighs_stays_as_it_is(program: Program) -> None:
    recipe = [{"pass": "quantize", "scheme": "p8", "minimum_elements": 1, "modules": "tiny"}]
    result = ew.compress(program, recipe)
    assert "a table takes 1024 bytes, and indices save 576" in skips_of(result)["tiny.weight"]
    assert not stored_palettes(result.program)
    assert "too few" in skips_of(ew.compress(program, [{"pass": "quantize", "scheme": "p4"}]))["tiny.weight"]


def test_modules_are_chosen_by_pattern_and_steps_combine(program: Program) -> None:
    recipe = [
        {"pass": "quantize", "scheme": "p2", "modules": "mix"},
        {"pass": "quantize", "scheme": "p6", "modules": "up|odd"},
        {"pass": "quantize", "scheme": "w8", "modules": "small"},
    ]
    found = ew.compress(program, recipe).program
    assert sorted(palette.bits for palette in stored_palettes(found)) == [2, 6, 6]
    assert {"uint2", "uint6", "int8"} <= set(found.weight_bytes())


def test_weighing_errors_by_the_data_errs_less_on_other_data() -> None:
    """Where columns with small weights read large inputs, as behind norms with uneven channels."""
    torch.manual_seed(0)
    model, scale = nn.Linear(64, 64).eval(), torch.logspace(-0.5, 0.5, 64)
    model.weight.data /= scale
    batches = [{"input": normal(seed, 32, 64) * scale} for seed in range(4)]
    program = ew.capture(model, batches[0])
    errors = []
    for weighted in (False, True):
        recipe = [{"pass": "quantize", "scheme": "p3", "weighted": weighted}]
        found = ew.compress(program, recipe, batches=batches).program
        other = {"input": normal(9, 32, 64) * scale}
        errors.append(sqnr_db(program.run(other)["output_0"].numpy(), found.run(other)["output_0"].numpy()))
    assert errors[1] > errors[0] + 1


def test_the_same_seed_gives_the_same_program(program: Program) -> None:
    recipe = [{"pass": "quantize", "scheme": "p4", "weighted": True}]
    digests = {ew.compress(program, recipe, batches=[ids(2), ids(3)]).program.digest() for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"weighted": True}, CalibrationError, "a weighted palette needs calibration data"),
        ({"group": -1}, RecipeError, "number of output channels"),
        ({"vector": 0}, RecipeError, "got: vector = 0"),
        ({"bits": 3}, RecipeError, r"the scheme says this already\s+got: bits"),
        ({"modules": "hed"}, RecipeError, "did you mean 'head'"),
    ],
)
def test_bad_settings_are_refused(
    program: Program, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        compressed(program, "p4", **settings)


def test_bits_of_no_palette_are_refused(program: Program) -> None:
    with pytest.raises(RecipeError, match="expected: 1 to 8"):
        ew.compress(program, [{"pass": "palettize-weights", "bits": 9}])


def test_a_saved_program_loads_where_the_operation_is_not_known_yet(program: Program, tmp_path: Path) -> None:
    import subprocess
    import sys

    found = compressed(program, "p3", group=16)
    save_program(found, tmp_path / "saved.pt2")
    again = load_program(tmp_path / "saved.pt2", found.inputs, found.outputs)
    assert error_db(found, again) == 200
    code = (
        "import sys; from pathlib import Path; from edgewright.pipeline.handover import load_program\n"
        "assert 'edgewright.pipeline.look_up' not in sys.modules\n"
        "found = load_program(Path(sys.argv[1]), (), ()); print(sorted(found.weight_bytes()))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "saved.pt2")], capture_output=True, text=True, timeout=300
    )
    assert ran.stdout.strip() == "['float32', 'uint3']", ran.stderr


# The names


@pytest.mark.parametrize(
    ("scheme", "known", "nearest"),
    [
        ("p4", {"fp32", "w8", "w4", "w4g32"}, "w4"),
        ("p3", {"w8", "w4"}, "w4"),
        ("p6", {"w8", "w4"}, "w8"),
        ("p8", {"w8", "w4"}, "w8"),
        ("p5", {"p1", "p4", "p6", "p8", "w8"}, "p6"),
        ("p7", {"p4", "p6", "p8", "w8"}, "p8"),
        ("p4", {"fp32", "w8a8"}, None),
        ("w4", {"w8"}, None),
    ],
)
def test_the_nearest_scheme_has_as_many_bits_or_the_next_more(
    scheme: str, known: set[str], nearest: str | None
) -> None:
    assert nearest_scheme(scheme, known) == nearest
