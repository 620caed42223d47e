"""A model that is larger than the memory left: its weights are gone through layer by layer."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import edgewright as ew
from bench.streaming import private_bytes, run
from edgewright.pipeline.memory import LARGE_BYTES, spilled
from edgewright.pipeline.passes.layer_weights import WEIGHTS

linux = pytest.mark.skipif(sys.platform != "linux", reason="private memory is read from /proc")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
def test_a_spilled_tensor_has_its_values_and_leaves_no_file(dtype: torch.dtype) -> None:
    values = torch.randint(0, 2, (LARGE_BYTES // 512, 513)).to(dtype)
    found = spilled(values)
    assert torch.equal(found, values)
    assert (found.dtype, found.shape) == (dtype, values.shape)


def test_small_tensors_stay_where_they_are() -> None:
    values = torch.randn(16)
    assert spilled(values).data_ptr() == values.data_ptr()


@linux
def test_a_spilled_tensor_takes_no_private_memory_when_it_is_read() -> None:
    values = torch.ones(16 << 20)
    found = spilled(values)
    before = private_bytes()
    assert float(found.sum()) == 16 << 20
    assert private_bytes() - before < 16e6, "of 67 MB"


def test_each_weight_is_restored_right_before_its_layer() -> None:
    """Not at the start, where all weights would be floats at once."""
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
    program = ew.compress(ew.capture(model, (torch.randn(1, 32),)), [{"pass": "quantize", "scheme": "w4g32"}]).program
    layers = [node for node in program.graph.nodes if node.target in WEIGHTS]
    assert len(layers) == 4
    assert all(layer.args[1] is layer.prev for layer in layers)


@linux
@pytest.mark.slow
def test_gptq_holds_two_blocks_of_a_model_and_not_the_whole() -> None:
    """Above the loaded libraries, beside twice the largest block: the graph, activations and buffers. It was 209 MB."""
    found = run("small")
    assert found.weights_mb > 50
    assert found.peak_mb < 2 * found.block_mb + 80
