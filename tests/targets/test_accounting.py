"""The arithmetic of the inspectors, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewright.targets.accounting import (
    Step,
    account,
    convolution_macs,
    matmul_macs,
    peak_activation_bytes,
    transposed_convolution_macs,
)
from edgewright.targets.base import Inspection, Operation


def step(name: str, reads: tuple[str, ...], writes: tuple[str, ...], macs: int = 0, compute: str = "float32") -> Step:
    return Step(name, "op", compute, macs, reads, writes)


# Multiply-accumulates


def test_a_convolution_meets_its_kernel_at_every_output_element() -> None:
    assert convolution_macs([1, 8, 5, 5], [8, 3, 3, 3]) == 8 * 25 * 27


def test_groups_divide_the_work_of_a_convolution() -> None:
    assert convolution_macs([1, 8, 5, 5], [8, 1, 3, 3]) == 8 * 25 * 9


def test_a_transposed_convolution_meets_its_kernel_at_every_input_element() -> None:
    assert transposed_convolution_macs([1, 3, 5, 5], [3, 8, 3, 3]) == 3 * 25 * 8 * 9


def test_a_matrix_product_sums_over_its_inner_axis() -> None:
    assert matmul_macs([2, 4, 7], [2, 4, 5]) == 2 * 4 * 5 * 7


def test_a_transposed_left_operand_has_its_inner_axis_before_the_last() -> None:
    assert matmul_macs([2, 7, 4], [2, 4, 5], transposed=True) == 2 * 4 * 5 * 7


def test_a_vector_times_a_matrix_counts_once_a_weight() -> None:
    assert matmul_macs([7], [5]) == 35
    assert matmul_macs([7], [5], transposed=True) == 35


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 3),
)
def test_a_convolution_and_its_transpose_do_the_same_work(
    batch: int, inputs: int, outputs: int, kernel: int, stride: int, size: int
) -> None:
    """Each pair (input element, output element, weight) of one is a pair of the other, without padding."""
    small = torch.zeros(batch, inputs, size, size)
    weight = torch.zeros(inputs, outputs, kernel, kernel)
    large = torch.nn.functional.conv_transpose2d(small, weight, stride=stride)
    back = torch.nn.functional.conv2d(large, weight, stride=stride)
    assert transposed_convolution_macs(small.shape, weight.shape) == convolution_macs(back.shape, weight.shape)


# Activations alive at once


def test_a_chain_holds_two_neighbours() -> None:
    steps = [step("a", ("x",), ("a",)), step("b", ("a",), ("b",)), step("c", ("b",), ("c",))]
    assert peak_activation_bytes(steps, {"x": 10, "a": 100, "b": 30, "c": 5}) == 130


def test_a_residual_keeps_the_early_value_alive() -> None:
    steps = [step("a", ("x",), ("a",)), step("b", ("a",), ("b",)), step("add", ("a", "b"), ("c",))]
    assert peak_activation_bytes(steps, {"x": 1, "a": 10, "b": 20, "c": 40}) == 70


def test_an_input_that_is_read_late_counts_from_the_start() -> None:
    steps = [step("a", ("x",), ("a",)), step("b", ("a", "y"), ("b",))]
    assert peak_activation_bytes(steps, {"x": 1, "y": 50, "a": 100, "b": 2}) == 152
    assert peak_activation_bytes(steps[:1], {"x": 1, "y": 50, "a": 100}) == 101


def test_an_output_lives_to_the_end() -> None:
    steps = [step("out", ("x",), ("out",)), step("b", ("x",), ("b",)), step("c", ("b",), ("c",))]
    assert peak_activation_bytes(steps, {"x": 1, "out": 1000, "b": 10, "c": 10}) == 1020


def test_constants_and_unknown_sizes_are_no_activations() -> None:
    steps = [step("a", ("x", "weight"), ("a",))]
    assert peak_activation_bytes(steps, {"x": 3, "a": 4}) == 7


def test_nothing_has_no_peak() -> None:
    assert peak_activation_bytes([], {}) == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 100)), min_size=1, max_size=12))
def test_the_peak_lies_between_the_largest_step_and_the_sum(program: list[tuple[int, int]]) -> None:
    steps, sizes = [], {"v0": 7}
    for place, (back, size) in enumerate(program):
        steps.append(step(f"s{place}", (f"v{max(0, place - back)}",), (f"v{place + 1}",)))
        sizes[f"v{place + 1}"] = size
    largest = max(sizes[each.reads[0]] + sizes[each.writes[0]] for each in steps)
    assert largest <= peak_activation_bytes(steps, sizes) <= sum(sizes.values())


# The whole file


def test_traffic_is_split_into_weights_and_activations() -> None:
    steps = [step("conv", ("x", "w"), ("y",), macs=12)]
    inspection = account("F 1", steps, {"x": 8, "y": 4}, {"w": 100}, {"int8": 100, "float32": 0})
    assert inspection.operations == (Operation("conv", "op", "float32", 12, 100, 12),)
    assert list(inspection.bytes_by_dtype) == ["float32", "int8"]
    assert inspection.executed is None
    assert inspection.peak_activation_bytes == 12
    assert inspection.macs == 12


def inspection(stated: list[tuple[str, int]], executed: list[tuple[str, int]] | None) -> Inspection:
    steps = [step(str(place), (), (), macs, compute) for place, (compute, macs) in enumerate(stated)]
    kernels = None if executed is None else [Operation("k", "k", compute, macs) for compute, macs in executed]
    return account("F", steps, {}, {}, {}, kernels)


@pytest.mark.parametrize(
    ("stated", "executed", "share"),
    [
        ([("int8", 30), ("float32", 10)], None, 0.75),
        ([("int8", 30), ("int4", 5), ("uint8", 5)], None, 1.0),
        ([("float16", 10), ("bfloat16", 10), ("int32", 10)], None, 0.0),
        ([("int8", 40)], [("float32", 40)], 0.0),
        ([("float32", 40)], [("uint8", 40)], 1.0),
        ([("int8", 0), ("float32", 0)], None, 0.0),
        ([("int8", 40)], [], 0.0),
    ],
)
def test_the_low_precision_share_believes_the_runtime_before_the_file(
    stated: list[tuple[str, int]], executed: list[tuple[str, int]] | None, share: float
) -> None:
    assert inspection(stated, executed).low_precision_share == share
