"""Where an artifact drifts: a target with a fault in one layer is caught at just that layer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgewright as ew
from edgewright.errors import CalibrationError, LoweringError
from edgewright.pipeline import drift_job
from edgewright.pipeline.capture import capture
from edgewright.pipeline.compress import compress
from edgewright.pipeline.drift import Drift, find_drift
from edgewright.pipeline.drift_job import locate_drift
from edgewright.pipeline.drift_probe import find_probes, layer_alone, with_probes
from edgewright.pipeline.passes.base import Context, PassReport
from edgewright.pipeline.passes.graph import add_constant
from edgewright.pipeline.program import Program
from edgewright.pipeline.report.drift import drifts
from edgewright.pipeline.results import DeliveryResult, DriftResult, ReleaseResult
from edgewright.targets import get_target
from edgewright.targets.base import Artifact, Target
from tests.small_models import SMALL, captured, folded, quantized


@dataclass(frozen=True)
class ScaleConstant:
    """A fault: one constant is a third too large."""

    name: ClassVar[str] = "scale-constant"
    runs_after: ClassVar[tuple[str, ...]] = ()
    constant: str = ""

    def run(self, program: Program, context: Context) -> PassReport:
        found = [(node, tensor) for node, tensor in program.constants() if str(node.target) == self.constant]
        for node, tensor in found:
            node.replace_all_uses_with(add_constant(program, f"{self.constant}_scaled", tensor * 1.3, node))
        return PassReport(len(found))


class Faulty:
    """A target whose legalization has a fault; everything else is the real one's."""

    def __init__(self, name: str, constant: str) -> None:
        self.target, self.constant = get_target(name), constant

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)

    def legalize(self) -> tuple[Any, ...]:
        return (ScaleConstant(self.constant), *self.target.legalize())


def samples_of(name: str, count: int = 3) -> list[dict[str, np.ndarray[Any, Any]]]:
    return [{key: value.numpy() for key, value in batch.items()} for batch in SMALL[name].batches(count, seed=5)]


def drift_of(program: Program, target: Any, name: str, folder: Path) -> Drift:
    return find_drift(program, target, samples_of(name), folder)


def test_a_fault_in_a_float_layer_is_pinned_to_it(tmp_path: Path) -> None:
    found = drift_of(folded("mlp"), Faulty("onnx", "layers.2.weight"), "mlp", tmp_path)
    assert [layer.module for layer in found.layers if layer.faulty] == ["layers.2"]
    first = found.layers[0]
    assert first.op == "linear"
    assert first.inputs_db > 100
    assert first.sqnr_db == pytest.approx(first.own_db, abs=0.5)
    assert first.sqnr_db < 20


def test_a_fault_in_the_first_layer_is_seen_though_nothing_lies_before_it(tmp_path: Path) -> None:
    found = drift_of(folded("mlp"), Faulty("onnx", "layers.0.weight"), "mlp", tmp_path)
    assert [layer.module for layer in found.layers if layer.faulty] == ["layers.0"]
    assert found.layers[0].inputs_db == 200.0


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_fault_in_an_integer_layer_is_pinned_to_it_in_quantization_steps(target: str, tmp_path: Path) -> None:
    found = drift_of(quantized("cnn"), Faulty(target, "residual_0_0_weight_scale"), "cnn", tmp_path)
    guilty = [layer for layer in found.layers if layer.faulty]
    assert [layer.module for layer in guilty] == ["residual.0.0"]
    assert guilty[0].own_steps is not None and guilty[0].own_steps > 2


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_rows_rounded_at_run_time_are_part_of_the_layer_that_reads_them(target: str, tmp_path: Path) -> None:
    program = compress(captured("mlp"), [{"pass": "quantize", "scheme": "w8a8-dynamic"}]).program
    for name in ("right", "wrong"):
        (tmp_path / name).mkdir()
    right = drift_of(program, get_target(target), "mlp", tmp_path / "right")
    assert len(right.curve) == 3
    assert not [layer for layer in right.layers if layer.faulty]
    wrong = drift_of(program, Faulty(target, "layers_2_weight_scale"), "mlp", tmp_path / "wrong")
    assert [(layer.module, layer.op) for layer in wrong.layers if layer.faulty] == [("layers.2", "linear")]


def test_images_rounded_at_run_time_are_part_of_the_convolution_that_reads_them(tmp_path: Path) -> None:
    recipe = [{"pass": "quantize", "scheme": "w8a8-dynamic", "convolutions": True}]
    program = compress(captured("cnn"), recipe).program
    for name in ("right", "wrong"):
        (tmp_path / name).mkdir()
    right = drift_of(program, get_target("tflite"), "cnn", tmp_path / "right")
    assert len(right.curve) == len(drift_of(folded("cnn"), get_target("tflite"), "cnn", tmp_path).curve)
    assert not [layer for layer in right.layers if layer.faulty]
    wrong = drift_of(program, Faulty("tflite", "residual_0_0_weight_scale"), "cnn", tmp_path / "wrong")
    assert [(layer.module, layer.op) for layer in wrong.layers if layer.faulty] == [("residual.0.0", "conv2d")]


@pytest.mark.parametrize("name", ["mlp", "cnn", "two_inputs"])
def test_where_nothing_is_wrong_no_layer_is_faulty(name: str, tmp_path: Path) -> None:
    found = drift_of(quantized(name), get_target("onnx"), name, tmp_path)
    assert [layer for layer in found.layers if layer.faulty] == []
    assert len(found.curve) >= 3


def test_an_input_beyond_its_calibrated_range_is_no_layer_that_drifts(tmp_path: Path) -> None:
    samples = [{name: 1.5 * value for name, value in sample.items()} for sample in samples_of("cnn")]
    found = find_drift(quantized("cnn"), get_target("tflite"), samples, tmp_path)
    assert not [layer for layer in found.layers if layer.faulty or layer.op == "image"]
    assert found.curve[0][0].startswith("conv2d")


def test_a_float_program_without_a_fault_has_no_suspicious_layer(tmp_path: Path) -> None:
    found = drift_of(folded("encoder"), get_target("onnx"), "encoder", tmp_path)
    assert found.layers == ()
    assert min(value for _, value in found.curve) > 80


class Counts(nn.Module):
    """Integers inside: positions counted over tokens, looked up in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 16)
        self.head = nn.Linear(16, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.cumsum((tokens != 0).to(torch.int64), dim=1)
        return self.head(self.table(positions))


def test_integer_values_are_compared_as_well(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens = torch.tensor([[3, 0, 5, 1, 0, 2]])
    program = capture(Counts().eval(), (tokens,))
    found = find_drift(program, Faulty("onnx", "table.weight"), [{"tokens": tokens.numpy()}], tmp_path)
    values = dict(found.curve)
    assert next(value for name, value in values.items() if name.startswith("cumsum")) == 200.0
    assert [layer.module for layer in found.layers if layer.faulty] == ["table"]


@pytest.mark.parametrize("is_open", [True, False])
def test_a_layer_alone_is_a_program_that_converters_take(is_open: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    open_batch = {"input": {0: torch.export.Dim("batch", min=1, max=8)}} if is_open else None
    rows = torch.randn(3 if is_open else 2, 8)
    program = compress(capture(model, (torch.randn(2, 8),), dynamic_shapes=open_batch), []).program
    first = find_probes(program)[0]
    (placeholder,) = program.graph.find_nodes(op="placeholder")
    alone, inputs = layer_alone(program, first, [], {placeholder: rows})
    assert (alone.dims, inputs) == ((), {"input_0": placeholder})
    with ew.open(ew.lower(alone, "onnx", tmp_path)) as session:
        found = session.run({"input_0": rows.numpy()})["value"]
    np.testing.assert_allclose(found, torch.relu(model[0](rows)).detach().numpy(), atol=1e-6)


def test_the_probes_leave_the_program_and_its_own_outputs_alone() -> None:
    program = quantized("cnn")
    digest = program.digest()
    probes = find_probes(program)
    probed = with_probes(program, probes)
    assert program.digest() == digest
    sample = {name: torch.from_numpy(value) for name, value in samples_of("cnn", 1)[0].items()}
    own, more = program.run(sample), probed.run(sample)
    assert torch.equal(own["logits"], more["logits"])
    assert len(more) == 1 + len(probes)
    assert {"residual.0.0", "head"} <= {probe.module for probe in probes}


class Picky:
    """A target that takes no program with more than three outputs."""

    def __init__(self) -> None:
        self.target = get_target("onnx")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)

    def lower(self, program: Program, folder: Path, *, integer_boundary: bool = False) -> Artifact:
        if len(program.outputs) > 3:
            raise LoweringError("too many outputs")
        return self.target.lower(program, folder, integer_boundary=integer_boundary)


def test_a_target_that_does_not_take_all_values_at_once_gets_them_in_parts(tmp_path: Path) -> None:
    target: Any = Picky()
    found = drift_of(folded("mlp"), target, "mlp", tmp_path)
    assert len(found.curve) == len(find_probes(folded("mlp")))
    assert list(tmp_path.iterdir()) == []


def test_other_results_with_probes_than_without_are_told(tmp_path: Path) -> None:
    target: Target = get_target("onnx")
    others = [{"output_0": np.full((1, 8), 5.0, np.float32)} for _ in range(3)]
    found = find_drift(folded("mlp"), target, samples_of("mlp"), tmp_path, found=others)
    assert found.same_db is not None and found.same_db < 20
    assert any("fuses less" in note for note in found.notes)


def test_without_samples_there_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="at least one sample"):
        find_drift(folded("mlp"), get_target("onnx"), [], tmp_path)


def test_a_search_that_fails_leaves_a_note_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: object) -> dict[str, Any]:
        raise LoweringError("the worker process ended without a result", got="killed by SIGSEGV")

    monkeypatch.setattr(drift_job, "run_job", crash)
    found = locate_drift(tmp_path)
    assert found.layers == ()
    assert "SIGSEGV" in found.notes[0]


def test_the_report_names_the_layers_of_a_missed_delivery(tmp_path: Path) -> None:
    found = drift_of(folded("mlp"), Faulty("onnx", "layers.2.weight"), "mlp", tmp_path)
    import dataclasses

    drift = DriftResult(**json.loads(json.dumps(dataclasses.asdict(found))))
    missed = DeliveryResult(name="a", target="onnx", device="host", status="missed", drift=drift)
    result = ReleaseResult(
        name="r", edgewright="0", source="s", model_digest="d", parameters=1, float32_bytes=4, deliveries=(missed,)
    )
    from edgewright.pipeline.report import render_report

    (shown,) = drifts(result)
    assert shown.rows[0].layer == "layers.2 (linear_1)"
    page = render_report(result)
    assert "Where it drifts" in page
    assert "layers.2 (linear_1)" in page
    assert "computes other numbers" in page
