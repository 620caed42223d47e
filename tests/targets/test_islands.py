"""Float islands and layout transposes, on graphs written by hand."""

from __future__ import annotations

from edgewright.targets.accounting import Executed, Step, account
from edgewright.targets.base import Inspection
from edgewright.targets.findings import TensorFact
from edgewright.targets.islands import find_islands
from edgewright.targets.layouts import find_layout_changes


def step(op: str, reads: str, writes: str, compute: str = "float32", permutation: tuple[int, ...] = ()) -> Step:
    return Step(
        f"{op}_{writes.replace(' ', '')}", op, compute, 0, tuple(reads.split()), tuple(writes.split()), permutation
    )


def dtypes(floats: str, integers: str) -> dict[str, str]:
    return dict.fromkeys(floats.split(), "float32") | dict.fromkeys(integers.split(), "int8")


# Islands


def test_one_float_operation_between_dequantize_and_quantize_is_an_island() -> None:
    steps = [step("DEQUANTIZE", "q", "a", "int8"), step("GELU", "a", "b"), step("QUANTIZE", "b", "r")]
    (island,) = find_islands(steps, dtypes("a b", "q r"), ())
    assert island.operations == ("GELU_b",)
    assert (island.entries, island.exits, island.open) == (1, 1, False)


def test_connected_operations_are_one_island_and_separate_ones_two() -> None:
    steps = [
        step("DEQUANTIZE", "q", "a", "int8"),
        step("MUL", "a", "b"),
        step("SOFTMAX", "b", "c"),
        step("QUANTIZE", "c", "r"),
        step("CONV_2D", "r", "s", "int8"),
        step("DEQUANTIZE", "s", "d", "int8"),
        step("GELU", "d", "e"),
        step("QUANTIZE", "e", "t"),
    ]
    first, second = find_islands(steps, dtypes("a b c d e", "q r s t"), ())
    assert first.ops == {"MUL": 1, "SOFTMAX": 1}
    assert second.ops == {"GELU": 1}


def test_a_float_head_behind_integers_is_no_island() -> None:
    steps = [step("CONV_2D", "q", "r", "int8"), step("DEQUANTIZE", "r", "a", "int8"), step("SOFTMAX", "a", "b")]
    assert find_islands(steps, dtypes("a b", "q r"), ()) == ()


def test_an_activation_that_runtimes_fuse_into_an_integer_product_is_no_island() -> None:
    """ONNX states it so: dequantize, convolution (integer by its neighbours), ReLU, quantize."""
    steps = [
        step("DequantizeLinear", "q", "a", "int8"),
        step("Conv", "a", "b", "int8"),
        step("Relu", "b", "c"),
        step("QuantizeLinear", "c", "r", "int8"),
    ]
    assert find_islands(steps, dtypes("a b c", "q r"), ()) == ()


def test_dequantized_weights_are_no_way_into_an_island() -> None:
    steps = [step("DEQUANTIZE", "w", "f", "int8"), step("CONV_2D", "x f", "y"), step("QUANTIZE", "y", "r")]
    assert find_islands(steps, dtypes("x f y", "w r"), {"w", "f"}) == ()


def test_a_residual_stream_from_outside_makes_an_island_open() -> None:
    steps = [step("DEQUANTIZE", "q", "a", "int8"), step("ADD", "a x", "b"), step("QUANTIZE", "b", "r")]
    (island,) = find_islands(steps, dtypes("a b x", "q r"), ())
    assert island.open


def test_sums_of_integer_products_lead_into_an_island() -> None:
    """MatMulInteger gives int32, a Cast makes float of it."""
    product = Step("m", "MatMulInteger", "int8", 64, ("q", "w"), ("sums",))
    steps = [product, step("Cast", "sums", "a"), step("DynamicQuantizeLinear", "a", "r", "int8")]
    (island,) = find_islands(steps, {**dtypes("a", "q r w"), "sums": "int32"}, ())
    assert island.ops == {"Cast": 1}


def test_the_executed_graph_goes_before_the_stated_one() -> None:
    stated = [step("DEQUANTIZE", "q", "a", "int8"), step("ADD", "a", "b"), step("QUANTIZE", "b", "r")]
    tensors = {name: TensorFact(name, dtype, (1,), 1) for name, dtype in dtypes("a b", "q r").items()}
    fused = Executed((step("QLinearAdd", "q", "r", "int8"),), dtypes("", "q r"), {})
    assert len(account("F", stated, {}, {}, {}, None, tensors).islands) == 1
    found = account("F", stated, {}, {}, {}, fused, tensors)
    assert found.islands == ()
    assert found.islands_executed
    assert [operation.op for operation in found.executed or ()] == ["QLinearAdd"]


# Layout

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def test_a_channel_transpose_beside_a_convolution_serves_the_layout() -> None:
    steps = [step("TRANSPOSE", "x", "a", permutation=TO_LAST), step("RELU", "a", "b"), step("CONV_2D", "b", "c")]
    (change,) = find_layout_changes(steps, {"x": 100, "a": 100})
    assert change.bytes == 200
    assert "CONV_2D_c" in change.why


def test_a_pair_of_transposes_that_undo_each_other_counts_both() -> None:
    steps = [
        step("Transpose", "x", "a", permutation=(1, 0)),
        step("Sigmoid", "a", "b"),
        step("Transpose", "b", "c", permutation=(1, 0)),
    ]
    first, second = find_layout_changes(steps, {})
    assert first.why == "taken back by Transpose_c"
    assert second.why == "takes back Transpose_a"


def test_a_transpose_of_attention_heads_does_not_count() -> None:
    steps = [
        step("Reshape", "x", "a"),
        step("Transpose", "a", "b", permutation=(0, 2, 1, 3)),
        step("MatMul", "b k", "c"),
        step("Conv", "d", "e"),
    ]
    assert find_layout_changes(steps, {}) == ()


def test_a_reorder_counts_where_the_runtime_added_it() -> None:
    steps = [step("ReorderInput", "x", "a")]
    assert find_layout_changes(steps, {}) == ()
    (change,) = find_layout_changes(steps, {"x": 8, "a": 8}, stated=False)
    assert (change.bytes, change.stated) == (16, False)


def test_an_inspection_survives_the_trip_through_plain_data() -> None:
    import dataclasses
    import json

    steps = [step("DEQUANTIZE", "q", "a", "int8"), step("ADD", "a", "b"), step("QUANTIZE", "b", "r")]
    tensors = {name: TensorFact(name, dtype, (1, -1), 4) for name, dtype in dtypes("a b", "q r").items()}
    found = account("F", steps, {"a": 4, "b": 4}, {"w": 3}, {"int8": 3}, None, tensors)
    found = dataclasses.replace(found, left_delegate=("x",), notes=("y",), versions={"opset": "1"})
    assert Inspection.of(json.loads(json.dumps(dataclasses.asdict(found)))) == found
