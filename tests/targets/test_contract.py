"""What every target owes, over every scheme and every small model. A missing runtime is a counted skip."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.errors import TargetError
from edgewright.pipeline.capture import capture
from edgewright.pipeline.metrics import sqnr_by_output
from edgewright.pipeline.passes.base import Context
from edgewright.pipeline.passes.quantize_static import QuantizeStatic
from edgewright.pipeline.passes.runner import run_passes
from edgewright.pipeline.program import Program
from edgewright.targets import get_target, require_runtime, target_names
from edgewright.targets.base import Artifact, Inspection, Session, Target
from tests.small_models import PREPARE, SMALL, captured, folded, quantized

TARGETS = target_names()
SCHEMES: dict[str, Callable[[str], Program]] = {"fp32": folded, "w8a8": quantized}
ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 8


def usable(name: str) -> Target:
    target = get_target(name)
    try:
        require_runtime(target)
    except TargetError as error:
        pytest.skip(f"{name}: {error}")
    return target


def arrays(batch: dict[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {key: value.numpy() for key, value in batch.items()}


def lower(target: Target, program: Program, folder: Path) -> Artifact:
    folder.mkdir(parents=True)
    assert target.refusals(program) == ()
    return target.lower(run_passes(program, target.legalize()).program, folder)


@dataclass(frozen=True)
class Delivery:
    """One lowered program with all that the tests ask about it."""

    program: Program
    artifact: Artifact
    inspection: Inspection
    outputs: list[dict[str, np.ndarray[Any, Any]]]
    provenance: str
    runtime: str


@pytest.fixture(scope="module")
def deliver(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Delivery]:
    folder = tmp_path_factory.mktemp("contract")

    @cache
    def make(name: str, scheme: str, model: str) -> Delivery:
        target, program = usable(name), SCHEMES[scheme](model)
        artifact = lower(target, program, folder / name / scheme / model)
        session: Session
        with target.open(artifact, threads=1) as session:
            outputs = [session.run(arrays(batch)) for batch in SMALL[model].batches(SAMPLES, seed=21)]
            return Delivery(program, artifact, target.inspect(artifact), outputs, session.provenance, session.runtime)

    return make


@cache
def results(make: Callable[[str], Program], model: str) -> list[dict[str, np.ndarray[Any, Any]]]:
    return [arrays(make(model).run(batch)) for batch in SMALL[model].batches(SAMPLES, seed=21)]


every_delivery = pytest.mark.parametrize(
    ("name", "scheme", "model"),
    [(name, scheme, model) for name in TARGETS for model in SMALL for scheme in SCHEMES],
)
every_pair = pytest.mark.parametrize(("name", "model"), [(name, model) for name in TARGETS for model in SMALL])


def test_the_contract_covers_every_target() -> None:
    folders = [path.parent for path in (ROOT / "targets").glob("*/__init__.py")]
    assert {folder.name for folder in folders} <= set(TARGETS), "an entry point of pyproject.toml: install anew"
    for folder in folders:
        assert {"lower.py", "inspect.py", "run.py"} <= {path.name for path in folder.glob("*.py")}, folder.name


@every_delivery
def test_outputs_have_the_names_shapes_and_dtypes_of_the_program(
    deliver: Callable[[str, str, str], Delivery], name: str, scheme: str, model: str
) -> None:
    delivery = deliver(name, scheme, model)
    for sample in delivery.outputs:
        found = {key: (value.shape, str(value.dtype)) for key, value in sample.items()}
        assert found == {spec.name: (spec.shape, spec.dtype) for spec in delivery.program.outputs}


@every_pair
def test_a_float_artifact_equals_pytorch(deliver: Callable[[str, str, str], Delivery], name: str, model: str) -> None:
    outputs = deliver(name, "fp32", model).outputs
    for key, decibels in sqnr_by_output(results(captured, model), outputs).items():
        assert decibels >= 80.0, key


@every_pair
def test_an_int8_artifact_is_as_good_as_its_graph(
    deliver: Callable[[str, str, str], Delivery], name: str, model: str
) -> None:
    original = results(captured, model)
    graph = sqnr_by_output(original, results(quantized, model))
    artifact = sqnr_by_output(original, deliver(name, "w8a8", model).outputs)
    for spec in captured(model).outputs:
        if spec.dtype == "float32":
            assert artifact[spec.name] >= graph[spec.name] - 1.0, spec.name
            assert graph[spec.name] < 60.0, "a graph without quantization noise shows nothing"


@every_delivery
def test_multiplications_run_in_the_precision_of_the_scheme(
    deliver: Callable[[str, str, str], Delivery], name: str, scheme: str, model: str
) -> None:
    inspection = deliver(name, scheme, model).inspection
    if scheme == "w8a8":
        assert inspection.low_precision_share >= 0.95
    else:
        assert inspection.low_precision_share == 0.0
    assert inspection.peak_activation_bytes > 0


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_multiply_accumulates_are_those_of_the_model(
    deliver: Callable[[str, str, str], Delivery], name: str, scheme: str
) -> None:
    pixels, small = 16 * 16, 8 * 8
    convolutions = pixels * 32 * 9 + small * (32 * 9 + 32 * 64 + 2 * 64 * 64 * 9 + 64 * 32 + 64 * 32 * 9)
    inspection = deliver(name, scheme, "cnn").inspection
    assert inspection.macs == convolutions + 640
    if inspection.executed is not None:
        assert sum(operation.macs for operation in inspection.executed) == convolutions + 640


@every_delivery
def test_what_is_executed_is_what_the_file_says(
    deliver: Callable[[str, str, str], Delivery], name: str, scheme: str, model: str
) -> None:
    inspection = deliver(name, scheme, model).inspection
    if inspection.executed is not None:
        assert sum(operation.macs for operation in inspection.executed) == inspection.macs
    else:
        assert name not in ("onnx", "openvino"), "these runtimes tell"


@every_pair
def test_int8_weights_are_stored_as_int8(deliver: Callable[[str, str, str], Delivery], name: str, model: str) -> None:
    stored = quantized(model).weight_bytes()["int8"]
    small, full = (deliver(name, scheme, model) for scheme in ("w8a8", "fp32"))
    assert stored <= small.inspection.bytes_by_dtype["int8"] <= 1.05 * stored
    assert small.inspection.bytes_by_dtype.get("float32", 0) <= 0.05 * full.inspection.bytes_by_dtype["float32"]
    # 20 KB: the structure of a graph costs the same in both schemes, much of a small model's file.
    allowance = 20_000
    if name == "openvino":  # its structure is XML, about a kilobyte an operation: the weights are judged alone
        sizes = [delivery.artifact.main.with_suffix(".bin").stat().st_size for delivery in (small, full)]
    else:
        sizes = [delivery.artifact.size_bytes for delivery in (small, full)]
    assert sizes[0] <= 0.30 * sizes[1] + allowance


@every_delivery
def test_lowering_twice_gives_the_same_bytes(
    deliver: Callable[[str, str, str], Delivery], name: str, scheme: str, model: str, tmp_path: Path
) -> None:
    first = deliver(name, scheme, model).artifact
    again = lower(usable(name), SCHEMES[scheme](model), tmp_path / "again")
    assert [file.name for file in again.files] == [file.name for file in first.files]
    for one, other in zip(first.files, again.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


@pytest.mark.parametrize("name", TARGETS)
def test_an_artifact_is_found_again_in_its_folder(deliver: Callable[[str, str, str], Delivery], name: str) -> None:
    artifact = deliver(name, "fp32", "mlp").artifact
    folder = next(parent for parent in artifact.main.parents if parent.name == "mlp")
    assert usable(name).find(folder) == artifact
    assert artifact.size_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", TARGETS)
def test_a_session_says_what_executed_and_how_its_figures_were_got(
    deliver: Callable[[str, str, str], Delivery], name: str
) -> None:
    delivery = deliver(name, "fp32", "mlp")
    expected = "reference" if name == "coreml" and sys.platform != "darwin" else "measured-on-host"
    assert delivery.provenance == expected
    assert any(character.isdigit() for character in delivery.runtime), "a version"


# Formats of their own


def test_an_onnx_file_passes_the_checker_with_the_programs_ports(
    deliver: Callable[[str, str, str], Delivery],
) -> None:
    usable("onnx")
    import onnx

    for scheme in SCHEMES:
        model = onnx.load(str(deliver("onnx", scheme, "two_inputs").artifact.main))
        onnx.checker.check_model(model, full_check=True)
        assert [port.name for port in model.graph.input] == ["features", "kind"]
        assert [port.name for port in model.graph.output] == ["score", "best"]


def test_an_onnx_file_holds_no_path_of_this_machine(deliver: Callable[[str, str, str], Delivery]) -> None:
    content = deliver("onnx", "w8a8", "cnn").artifact.main.read_bytes()
    assert str(ROOT).encode() not in content
    assert b"site-packages" not in content


def test_onnx_activations_are_unsigned_and_weights_signed(
    deliver: Callable[[str, str, str], Delivery],
) -> None:
    usable("onnx")
    import onnx

    graph = onnx.load(str(deliver("onnx", "w8a8", "cnn").artifact.main)).graph
    dtypes = {initializer.name: initializer.data_type for initializer in graph.initializer}
    zero_points = [dtypes[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert set(zero_points) == {onnx.TensorProto.UINT8}


@pytest.mark.parametrize("model", ["cnn", "two_inputs"])
def test_an_int8_tflite_file_is_float_outside_and_integer_inside(
    deliver: Callable[[str, str, str], Delivery], model: str
) -> None:
    usable("tflite")
    from ai_edge_litert.interpreter import Interpreter

    delivery = deliver("tflite", "w8a8", model)
    interpreter = Interpreter(str(delivery.artifact.main))
    runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
    ports = {**runner.get_input_details(), **runner.get_output_details()}
    floats = {spec.name for spec in (*delivery.program.inputs, *delivery.program.outputs) if spec.dtype == "float32"}
    assert floats
    assert {key for key, detail in ports.items() if detail["dtype"] is np.float32} == floats
    products = [operation for operation in delivery.inspection.operations if operation.macs]
    assert products
    assert {operation.compute for operation in products} == {"int8"}


def test_a_coreml_package_is_an_ios17_program_with_folded_weights(
    deliver: Callable[[str, str, str], Delivery],
) -> None:
    inspection = deliver("coreml", "w8a8", "cnn").inspection
    assert inspection.format == "Core ML specification 8"
    kinds = {operation.op for operation in inspection.operations}
    assert {"quantize", "dequantize", "conv"} <= kinds
    assert "constexpr_affine_dequantize" not in kinds, "a constant, not an operation at run time"


# The odd ends of a signature, in one model


class Odd(nn.Module):
    """An unread input, one value under two names, a returned input, a constant, booleans, indices."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 4, padding="same")
        self.dense = nn.Linear(4, 8)
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, image: Tensor, unused: Tensor) -> dict[str, Tensor]:
        y = self.dense(F.relu(self.conv(image)).mean((2, 3)))
        return {
            "first": y,
            "second": y,
            "same": image,
            "table": self.table * 2.0,
            "positive": y > 0.0,
            "order": y.topk(3).indices,
        }


@cache
def odd_programs() -> tuple[dict[str, Tensor], Program, Program]:
    torch.manual_seed(4)
    batch = {"image": torch.rand(1, 2, 6, 6), "unused": torch.rand(1, 3)}
    plain = run_passes(capture(Odd().eval(), batch), PREPARE).program
    return batch, plain, run_passes(plain, [QuantizeStatic()], Context(batches=[batch])).program


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", TARGETS)
def test_odd_signatures_survive(name: str, scheme: str, tmp_path: Path) -> None:
    target = usable(name)
    batch, plain, integer = odd_programs()
    program = plain if scheme == "fp32" else integer
    artifact = lower(target, program, tmp_path / "odd")
    with target.open(artifact) as session:
        outputs = session.run(arrays(batch))
    expected = arrays(program.run(batch))
    assert {key: (value.shape, value.dtype) for key, value in outputs.items()} == {
        key: (value.shape, value.dtype) for key, value in expected.items()
    }
    step = float(np.ptp(expected["first"])) / 127
    np.testing.assert_allclose(outputs["first"], expected["first"], atol=step if scheme == "w8a8" else 1e-5)
    np.testing.assert_array_equal(outputs["first"], outputs["second"])
    np.testing.assert_array_equal(outputs["same"], expected["same"])
    np.testing.assert_array_equal(outputs["table"], expected["table"])
    if scheme == "fp32":
        np.testing.assert_array_equal(outputs["positive"], expected["positive"])
        np.testing.assert_array_equal(outputs["order"], expected["order"])


# A runtime that is not there


def test_a_missing_runtime_is_refused_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TARGETS:
        target = get_target(name)
        monkeypatch.setattr(type(target), "modules", ("numpy", "no_such_runtime"))
        with pytest.raises(TargetError, match="missing: no_such_runtime") as caught:
            require_runtime(target)
        assert f"pip install 'edgewright[{target.extra}]'" in str(caught.value)


def test_an_unknown_target_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(TargetError, match="did you mean 'tflite'"):
        get_target("tflight")


# Across processes

ACROSS = """
import hashlib, logging, sys, tempfile
from pathlib import Path
from edgewright.pipeline.passes.runner import run_passes
from edgewright.targets import get_target
from tests.small_models import quantized

for name in sys.argv[1:]:
    target = get_target(name)
    with tempfile.TemporaryDirectory() as folder:
        artifact = target.lower(run_passes(quantized("two_inputs"), target.legalize()).program, Path(folder))
        for file in artifact.files:
            print("DIGEST", name, file.name, hashlib.sha256(file.read_bytes()).hexdigest())
print("DIGEST", "program", quantized("two_inputs").digest())
"""


@pytest.mark.slow
def test_two_processes_with_other_hash_seeds_write_the_same_bytes() -> None:
    names = [name for name in TARGETS if not _missing(name)]
    if not names:
        pytest.skip("no runtime of any target is installed")
    digests = [list(_digests(seed, names)) for seed in ("1", "2")]
    assert len(digests[0]) > len(names)
    assert digests[0] == digests[1]


def _missing(name: str) -> bool:
    try:
        require_runtime(get_target(name))
    except TargetError:
        return True
    return False


def _digests(seed: str, names: list[str]) -> Iterator[str]:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ACROSS, *names],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    yield from (line for line in done.stdout.splitlines() if line.startswith("DIGEST"))


def test_the_digest_helper_sees_a_difference(tmp_path: Path) -> None:
    """One weight changed by one step changes the file: identical bytes are no accident of comparing."""
    target = usable("onnx")
    program = quantized("mlp").clone()
    name = next(str(node.target) for node, tensor in program.constants() if tensor.dtype == torch.int8)
    changed = program.tensors()[name].clone()
    changed[0, 0] ^= 1
    program.module.register_buffer(name, changed)
    files = [lower(target, each, tmp_path / str(place)).main for place, each in enumerate((quantized("mlp"), program))]
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files}) == 2
