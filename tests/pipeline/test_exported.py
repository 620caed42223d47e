"""A program reaches converters, and other processes, as it is: without a second trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import edgewright as ew
from edgewright.pipeline.decompose_once import decomposing_once
from edgewright.pipeline.exported import as_exported, exporting_as_given
from edgewright.pipeline.handover import load_program, save_program
from edgewright.pipeline.passes.graph import aten, replace
from edgewright.pipeline.program import Program
from edgewright.pipeline.propagation import KNOWN
from tests.small_models import SMALL, captured, quantized


class Named(nn.Module):
    """Its input has the name of a builtin."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, input: Tensor) -> Tensor:
        return self.layer(input).relu()


def called(exported: ExportedProgram, program: Program, batch: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return list(exported.module()(*(batch[spec.name] for spec in program.inputs)))


def no_trace(*args: Any, **options: Any) -> None:
    raise AssertionError("torch.export traced the graph")


@pytest.mark.parametrize("form", [captured, quantized])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_an_exported_program_is_the_graph_with_its_weights_as_inputs(
    name: str, form: Callable[[str], Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, batch = form(name), SMALL[name].batches(1, seed=3)[0]
    traced = torch.export.export(program.module, program.example)
    monkeypatch.setattr(torch.export, "export", no_trace)
    exported = as_exported(program)
    assert [spec.kind for spec in exported.graph_signature.input_specs] == [
        spec.kind for spec in traced.graph_signature.input_specs
    ]
    assert exported.graph_signature.user_inputs == traced.graph_signature.user_inputs
    for got, expected in zip(called(exported, program, batch), program.run(batch).values(), strict=True):
        assert torch.equal(got, expected)


def test_a_converter_that_traces_modules_gets_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    program, batch = quantized("encoder"), SMALL["encoder"].batches(1, seed=3)[0]
    named = {spec.name: batch[spec.name] for spec in program.inputs}
    traced = torch.export.export(program.module, (), named)
    monkeypatch.setattr(torch.export, "export", no_trace)
    with exporting_as_given([program]):
        given = torch.export.export(program.module, (), named)
        with pytest.raises(AssertionError, match="traced"):  # a module that is not the program's
            torch.export.export(nn.Identity(), (torch.ones(1),))
    assert torch.export.export is no_trace
    assert given.call_spec == traced.call_spec
    assert given.graph_signature.user_inputs == traced.graph_signature.user_inputs
    (got,), (expected,) = (exported.module()(**named) for exported in (given, traced))
    assert torch.equal(got, expected)


def test_a_program_of_open_sizes_is_traced_with_its_bounds() -> None:
    rows = ew.Dim("rows", min=2, max=9)
    program = ew.capture(nn.Linear(3, 2), (torch.ones(4, 3),), dynamic_shapes=({0: rows},))
    (bounds,) = as_exported(program).range_constraints.values()
    assert (bounds.lower, bounds.upper) == (2, 9)


@pytest.mark.parametrize("table", [None, {}], ids=["core operators", "empty table"])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_operations_decompose_as_in_the_whole_program(name: str, table: dict[Any, Any] | None) -> None:
    program, batch = quantized(name), SMALL[name].batches(1, seed=3)[0]
    whole = as_exported(program).run_decompositions(table)
    with decomposing_once():
        parts = as_exported(program).run_decompositions(table)
    assert operations(parts) == operations(whole)
    assert parts.graph_signature.user_inputs == whole.graph_signature.user_inputs
    for got, expected in zip(called(parts, program, batch), called(whole, program, batch), strict=True):
        assert torch.equal(got, expected)


def operations(exported: ExportedProgram) -> list[str]:
    return sorted(str(node.target) for node in exported.graph.nodes if node.op == "call_function")


def test_equal_layers_are_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(6)))
    exported = as_exported(ew.capture(layers, (torch.ones(2, 4),)))
    given: list[int] = []
    whole = ExportedProgram.run_decompositions

    def counted(self: ExportedProgram, *args: Any, **options: Any) -> ExportedProgram:
        given.append(len(operations(self)))
        return whole(self, *args, **options)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    with decomposing_once():
        done = exported.run_decompositions()
    assert given == [1]  # linear; GELU is a core operator
    assert operations(done).count("aten.addmm.default") == 6
    assert ExportedProgram.run_decompositions is counted


def test_open_sizes_are_decomposed_by_pytorch_alone() -> None:
    rows = ew.Dim("rows", min=2, max=9)
    program = ew.capture(nn.Linear(3, 2), (torch.ones(4, 3),), dynamic_shapes=({0: rows},))
    with decomposing_once():
        done = as_exported(program).run_decompositions()
    assert "aten.addmm.default" in operations(done)
    assert len(done.range_constraints) == 1


def test_an_input_with_a_builtins_name_keeps_its_own(tmp_path: Path) -> None:
    program = ew.capture(Named(), (torch.ones(2, 4),))
    (name,) = torch.export.export(program.module, program.example).graph_signature.user_inputs
    save_program(program, tmp_path / "program")
    loaded = load_program(tmp_path / "program", program.inputs, program.outputs)
    with decomposing_once():
        done = as_exported(loaded).run_decompositions()
    assert done.graph_signature.user_inputs == (name,)


def test_shapes_are_computed_anew_where_something_changed() -> None:
    program = captured("mlp").clone()
    program.propagate()
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    before = {node: node.meta["val"] for node in nodes}
    assert program.propagate()[0] is before[nodes[-1]]
    first = nodes[0]
    with program.graph.inserting_after(first):
        wide = program.graph.call_function(aten.cat.default, ([first, first], 1))
    first.replace_all_uses_with(wide, delete_user_cb=lambda user: user is not wide)
    with pytest.raises(RuntimeError, match="reduction dim"):  # too many features for the layer behind
        program.propagate()
    replace(wide, first)
    program.propagate()
    assert first.meta["val"] is before[first]
    assert all(node.meta["val"].shape == value.shape for node, value in before.items())


def test_a_loaded_program_knows_its_shapes(tmp_path: Path) -> None:
    program = quantized("encoder")
    save_program(program, tmp_path / "program")
    loaded = load_program(tmp_path / "program", program.inputs, program.outputs)
    values = {node: node.meta["val"] for node in loaded.graph.nodes if node.op == "call_function"}
    loaded.propagate()
    assert all(node.meta["val"] is value and node.meta[KNOWN] for node, value in values.items())
    assert loaded.digest() == program.digest()
