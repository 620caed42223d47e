"""The digits example: its checkpoint, its splits, its accuracy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from examples.digits import data
from examples.digits.model import build

CHECKPOINT = Path(data.__file__).with_name("digits.safetensors")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    net = build()
    net.load_state_dict(load_file(CHECKPOINT), strict=True)
    return net.eval()


def test_digits_checkpoint_loads_strictly_and_is_small(model: nn.Module) -> None:
    assert set(load_file(CHECKPOINT)) == set(model.state_dict())
    assert CHECKPOINT.stat().st_size < 1_000_000
    assert 100_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 200_000


def test_digits_float_model_reaches_97_percent_on_held_out_pictures(model: nn.Module) -> None:
    def predict(inputs: data.Arrays) -> data.Arrays:
        with torch.inference_mode():
            return {"logits": model(torch.from_numpy(inputs["image"]))["logits"].numpy()}

    assert data.accuracy(predict) >= 0.97


def test_digits_splits_are_disjoint_and_cover_all_pictures() -> None:
    parts = data.split()
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))


def test_digits_pictures_do_not_repeat_across_splits() -> None:
    train, calibration, test = (
        {image.tobytes() for image in data.pictures_of(part)[0]} for part in ("train", "calibration", "test")
    )
    assert not train & calibration
    assert not train & test
    assert not calibration & test


def test_digits_calibration_is_deterministic_and_has_enough_samples() -> None:
    first, second = list(data.calibration()), list(data.calibration())
    assert len(first) == len(second) >= 128
    for one, other in zip(first, second, strict=True):
        assert one["image"].shape == (1, 1, 28, 28)
        assert one["image"].dtype == np.float32
        np.testing.assert_array_equal(one["image"], other["image"])


def test_digits_validation_inputs_are_held_out_pictures() -> None:
    test = {image.tobytes() for image in data.test_set()[0]}
    inputs = [sample["image"] for sample in data.validation()]
    assert len(inputs) == 64
    assert all(image[0].tobytes() in test for image in inputs)


def test_digits_model_exports_with_a_dynamic_batch(model: nn.Module) -> None:
    image = torch.from_numpy(np.concatenate([sample["image"] for sample in data.validation()]))
    program = torch.export.export(
        model, (image[:2],), dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=1024)}}
    )
    torch.testing.assert_close(program.module()(image[:1])["logits"], model(image[:1])["logits"])
    torch.testing.assert_close(program.module()(image)["logits"], model(image)["logits"])
