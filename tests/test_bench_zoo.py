"""The fast part of the zoo: a few architectures on every target, and what counts as verified, refused and failed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.zoo import SCHEMES, Line, cells_of
from bench.zoo_models import ZOO, ZooModel, floats
from bench.zoo_table import Cell, coverage_page, share_verified
from edgewright.pipeline.deliver import Delivery
from edgewright.targets import target_names

FAST = ("T5 encoder", "GRU", "rotary embeddings", "pixel shuffle")


@pytest.fixture(scope="module")
def lines() -> Iterator[dict[str, Line]]:
    made = {target: Line(target) for target in target_names()}
    yield made
    for line in made.values():
        line.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_an_architecture_is_verified_on_every_target(name: str, lines: dict[str, Line]) -> None:
    cells = list(cells_of(name, ZOO[name], {"fp32": list(lines), "w8a8": list(lines)}, lines))
    assert len(cells) == 2 * len(lines)
    assert {cell.status: cell.detail for cell in cells if cell.status != "verified"} == {}
    assert all(cell.share > 0.9 for cell in cells if cell.scheme == "w8a8")


def test_the_zoo_has_the_architectures_that_were_asked_for() -> None:
    assert len(ZOO) >= 40
    assert {model.source for model in ZOO.values()} == {"transformers", "PyTorch"}
    assert set(SCHEMES) == {"fp32", "fp16", "w8a8"}


def test_no_norm_of_the_zoo_leaves_its_values_as_they_are() -> None:
    norms = [
        module for name in ("ViT", "Llama") for module in ZOO[name].build().modules() if "Norm" in repr(module)[:9]
    ]
    norms = [module for module in norms if not list(module.children())]
    assert len(norms) > 4
    assert all(not torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in norms)


class Answering(Line):
    """A process that answers at once, as given."""

    def __init__(self, answer: dict[str, Any] | BaseException) -> None:
        super().__init__("onnx")
        self.answer = answer

    def submit(self, folder: Path, job: Delivery) -> Future[dict[str, Any]]:
        future: Future[dict[str, Any]] = Future()
        if isinstance(self.answer, BaseException):
            future.set_exception(self.answer)
        else:
            future.set_result(self.answer)
        return future


def cell_of(answer: dict[str, Any] | BaseException) -> Cell:
    model = ZooModel("PyTorch", lambda: nn.Linear(4, 2), floats("input", 1, 4))
    return next(cells_of("linear", model, {"fp32": ["onnx"]}, {"onnx": Answering(answer)}))


def test_a_refusal_with_reason_and_way_out_is_a_refusal() -> None:
    refusal = {"reason": "no such operation", "way_out": "another target"}
    assert cell_of({"error": "refused", "refusals": [refusal]}).status == "refused"


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "the converter failed", "refusals": []},
        {"error": "refused", "refusals": [{"reason": "", "way_out": ""}]},
        TimeoutError(),
    ],
)
def test_a_plain_failure_an_empty_refusal_and_a_hang_are_failures(answer: dict[str, Any] | BaseException) -> None:
    assert cell_of(answer).status == "failed"


def test_a_model_that_cannot_be_captured_fails_on_every_target() -> None:
    class Branching(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return input if float(input.sum()) > 0 else torch.zeros_like(input)

    model = ZooModel("PyTorch", Branching, floats("input", 1, 4))
    cells = list(cells_of("branching", model, {"fp32": ["onnx", "tflite"]}, {}))
    assert [cell.status for cell in cells] == ["failed", "failed"]


def test_the_page_counts_and_names_what_is_not_verified() -> None:
    models = {"linear": ZooModel("PyTorch", lambda: nn.Linear(4, 2), floats("input", 1, 4))}
    cells = [
        Cell("linear", "onnx", "fp32", "verified", ""),
        Cell("linear", "onnx", "w8a8", "refused", "onnx refuses\n it"),
        Cell("linear", "tflite", "fp32", "verified", ""),
        Cell("linear", "tflite", "w8a8", "verified", "", share=1.0),
    ]
    page = coverage_page(cells, models)
    assert "| linear | PyTorch | yes | refused | yes | yes | 100% |" in page
    assert "- onnx, w8a8, linear: onnx refuses it" in page
    assert "w8a8: 1 of 2 verified (50.0%), 1 refused, 0 failed" in page
    assert share_verified(cells, "w8a8") == 0.5
