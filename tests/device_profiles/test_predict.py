"""The predictor: its order relations, its refusals, and what it says of published rows."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import prediction, prediction_fit
from bench.prediction_catalogue import MODELS, network
from bench.prediction_models import inspection
from edgewright.device_profiles import load_profile, profile_names
from edgewright.device_profiles.predict import predict_latency_ms, predict_peak_bytes
from edgewright.errors import DeviceError
from edgewright.targets.base import Inspection, Operation

SHIPPED = [name for name in profile_names() if name != "host"]
CASES = [(name, target) for name in SHIPPED for target in load_profile(name).targets]
CPU_CASES = [
    (name, target) for name, target in CASES if "dotprod" in load_profile(name).isa.features or name == "intel-n100"
]
COMPUTE = st.sampled_from(["float32", "float16", "bfloat16", "int8", "uint8", "int4", "int32", "int64", "bool"])
COUNT = st.integers(0, 10**9)
OPERATION = st.builds(
    Operation, st.just("n"), st.sampled_from(["Conv", "Add", "Softmax"]), COMPUTE, COUNT, COUNT, COUNT
)
OPERATIONS = st.lists(OPERATION, min_size=1, max_size=6)


def file(operations: list[Operation], peak: int = 0) -> Inspection:
    stored = {"float32": sum(operation.weight_bytes for operation in operations)}
    return Inspection("any", tuple(operations), stored, None, peak)


def convolution(compute: str, elements: int, macs: int) -> Operation:
    size = {"float32": 4, "int8": 1}[compute]
    return Operation("conv", "Conv", compute, macs, elements // 4 * size, elements * size)


@settings(max_examples=60, deadline=None)
@given(case=st.sampled_from(CASES), operations=OPERATIONS, extra=COUNT, index=st.integers(0, 5))
def test_more_macs_are_never_faster(case: tuple[str, str], operations: list[Operation], extra: int, index: int) -> None:
    profile, target = load_profile(case[0]), case[1]
    at = index % len(operations)
    heavier = [replace(op, macs=op.macs + extra) if i == at else op for i, op in enumerate(operations)]
    before = predict_latency_ms(file(operations), profile, target)
    after = predict_latency_ms(file(heavier), profile, target)
    assert after.expected >= before.expected
    assert after.low >= before.low
    assert after.high >= before.high


@settings(max_examples=60, deadline=None)
@given(case=st.sampled_from(CASES), operations=OPERATIONS, peak=COUNT)
def test_low_expected_and_high_are_in_order(case: tuple[str, str], operations: list[Operation], peak: int) -> None:
    profile, target = load_profile(case[0]), case[1]
    for interval in (
        predict_latency_ms(file(operations, peak), profile, target),
        predict_peak_bytes(file(operations, peak), profile, target),
    ):
        assert 0 < interval.low < interval.expected < interval.high


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(CPU_CASES),
    elements=st.integers(4, 10**7),
    macs=st.integers(1, 10**9),
    threads=st.integers(1, 8),
)
def test_int8_on_a_cpu_with_dot_products_is_no_slower_than_float32(
    case: tuple[str, str], elements: int, macs: int, threads: int
) -> None:
    profile, target = load_profile(case[0]), case[1]
    small = predict_latency_ms(file([convolution("int8", elements, macs)]), profile, target, threads, "cpu")
    large = predict_latency_ms(file([convolution("float32", elements, macs)]), profile, target, threads, "cpu")
    assert small.expected <= large.expected * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(case=st.sampled_from(CPU_CASES), operations=OPERATIONS, threads=st.integers(1, 7))
def test_one_more_thread_is_never_predicted_slower(
    case: tuple[str, str], operations: list[Operation], threads: int
) -> None:
    profile, target = load_profile(case[0]), case[1]
    one = predict_latency_ms(file(operations), profile, target, threads, "cpu")
    more = predict_latency_ms(file(operations), profile, target, threads + 1, "cpu")
    assert more.expected <= one.expected * (1 + 1e-9)


@pytest.mark.parametrize(("name", "target"), CASES)
def test_a_tiny_file_costs_its_dispatch_and_little_more(name: str, target: str) -> None:
    profile = load_profile(name)
    tiny = predict_latency_ms(file([Operation("n", "Conv", "float32", 9_000, 400, 4_000)] * 3), profile, target)
    assert 0 < tiny.expected < 0.6


def test_what_a_runtime_folds_away_costs_nothing() -> None:
    profile = load_profile("raspberry-pi-5")
    conv = Operation("c", "Conv", "float32", 10**6, 10**4, 10**5)
    extra = [Operation("n", op, "float32", 0, 0, 10**6) for op in ("Clip", "Reshape", "Constant", "QuantizeLinear")]
    assert predict_latency_ms(file([conv, *extra]), profile, "onnx") == predict_latency_ms(
        file([conv]), profile, "onnx"
    )


def test_a_float32_file_runs_on_the_cpu_of_an_iphone_not_on_the_neural_engine() -> None:
    profile = load_profile("iphone-15-pro")
    net = network("resnet50")
    half = predict_latency_ms(inspection(net, "float16"), profile, "coreml")
    full = predict_latency_ms(inspection(net, "float32"), profile, "coreml")
    assert full.expected > 10 * half.expected


def test_the_tpu_of_a_pixel_is_used_only_when_asked_for() -> None:
    profile = load_profile("pixel-8")
    net = inspection(network("mobilenet_v2"), "int8")
    default, tpu = (predict_latency_ms(net, profile, "tflite", unit=unit) for unit in (None, "tpu"))
    assert tpu.expected < default.expected / 3
    assert default == predict_latency_ms(net, profile, "tflite", unit="cpu")


def test_a_target_that_the_device_does_not_carry_is_refused_by_name() -> None:
    profile = load_profile("pixel-8")
    for predict in (predict_latency_ms, predict_peak_bytes):
        with pytest.raises(DeviceError, match=r"no runtime for target 'coreml'[\s\S]*one of: onnx, tflite"):
            predict(file([]), profile, "coreml")


def test_an_unknown_unit_and_a_bad_thread_count_are_refused() -> None:
    profile = load_profile("pixel-8")
    with pytest.raises(DeviceError, match=r"no figures for unit 'tup'[\s\S]*did you mean 'tpu'"):
        predict_latency_ms(file([]), profile, "tflite", unit="tup")
    with pytest.raises(DeviceError, match="threads must be positive"):
        predict_latency_ms(file([]), profile, "tflite", threads=0)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_anchors_lie_inside_their_interval_as_often_as_the_spread_promises(name: str) -> None:
    profile = load_profile(name)
    anchors = profile.calibration.anchors
    inside = 0
    for anchor in anchors:
        interval = predict_latency_ms(
            inspection(network(anchor.model), anchor.compute),
            profile,
            anchor.target,
            anchor.threads,
            anchor.unit,
        )
        inside += interval.low <= anchor.latency_ms * profile.factor_of(anchor) <= interval.high
    assert inside >= prediction.COVERED * len(anchors)


def test_check_rows_are_no_anchors_and_mostly_lie_inside_their_interval() -> None:
    for profile in prediction.shipped():
        assert not set(profile.calibration.checks) & set(profile.calibration.anchors)
    rows = prediction.check()
    assert sum(row.inside for row in rows) >= 0.8 * len(rows)


def test_shipped_figures_are_those_that_the_anchors_give() -> None:
    for group in prediction.groups():
        rows = [prediction.row_of(anchor, group.profile) for anchor in group.anchors]
        fitted = prediction_fit.fit(group.kernel, group.profile, rows)
        for name in ("efficiency", "gbps", "weight_gbps", "op_us"):
            assert getattr(fitted, name).value == pytest.approx(getattr(group.kernel, name).value, rel=0.05), (
                f"{group.title}: {name}; run python -m bench.prediction --fit"
            )


def test_the_fit_and_the_predictor_hold_the_same_formula() -> None:
    for group in prediction.groups():
        for anchor in group.anchors[:3]:
            row = prediction.row_of(anchor, group.profile)
            logarithm = prediction_fit.log_ms(row, group.kernel, group.profile)
            predicted = predict_latency_ms(
                inspection(network(anchor.model), anchor.compute),
                group.profile,
                anchor.target,
                anchor.threads,
                anchor.unit,
            )
            assert exp(logarithm) == pytest.approx(predicted.expected, rel=1e-6), group.title


@pytest.mark.parametrize(
    ("model", "mmacs", "millions"),
    [
        ("mobilenet_v1", 569, 4.2),
        ("mobilenet_v2", 300, 3.5),
        ("resnet50", 4089, 25.5),
        ("vgg16", 15470, 138.4),
        ("efficientnet_b0", 386, 5.3),
        ("bert_base_128", 11_200, 85.0),
    ],
)
def test_layer_tables_have_the_macs_and_parameters_of_their_papers(model: str, mmacs: float, millions: float) -> None:
    layers = network(model).layers
    assert sum(layer.macs for layer in layers) / 1e6 == pytest.approx(mmacs, rel=0.02)
    assert sum(layer.weights for layer in layers) / 1e6 == pytest.approx(millions, rel=0.02)


def test_every_anchor_names_a_model_of_the_catalogue() -> None:
    for name in SHIPPED:
        assert {anchor.model for anchor in load_profile(name).calibration.anchors} <= set(MODELS)
