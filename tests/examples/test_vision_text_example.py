"""The vision_text example: its checkpoint, its splits, its captions, its accuracy, its parts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from examples.vision_text import captions, data
from examples.vision_text.model import build

CHECKPOINT = Path(data.__file__).with_name("vision_text.safetensors")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    net = build()
    net.load_state_dict(load_file(CHECKPOINT), strict=True)
    return net.eval()


@pytest.fixture(scope="module")
def sample() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in next(iter(data.validation())).items()}


def test_vision_text_checkpoint_loads_strictly_and_is_small(model: nn.Module) -> None:
    assert set(load_file(CHECKPOINT)) == set(model.state_dict())
    assert CHECKPOINT.stat().st_size < 4_000_000


def test_vision_text_float_model_reaches_95_percent_on_held_out_pictures(model: nn.Module) -> None:
    def predict(inputs: data.Arrays) -> data.Arrays:
        with torch.inference_mode():
            outputs = model(*(torch.from_numpy(inputs[name]) for name in ("image", "tokens")))
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    assert len(data.test_set()[0]) >= 300
    assert data.accuracy(predict) >= 0.95


def test_vision_text_pictures_do_not_repeat_across_splits() -> None:
    parts = ("train", "calibration", "test")
    pictures = [picture.tobytes() for part in parts for picture in data.scenes_of(part)[1]]
    assert len(pictures) == len(set(pictures)) == 7200 + 180 + 432


def test_vision_text_calibration_is_deterministic_and_has_enough_samples() -> None:
    first, second = list(data.calibration()), list(data.calibration())
    assert len(first) == len(second) >= 128
    for one, other in zip(first, second, strict=True):
        assert (one["image"].shape, one["image"].dtype) == ((1, 3, 32, 32), np.float32)
        assert (one["tokens"].shape, one["tokens"].dtype) == ((36, captions.LENGTH), np.int64)
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["tokens"], other["tokens"])


def test_vision_text_validation_inputs_are_held_out_pictures() -> None:
    test = {image.tobytes() for image in data.test_set()[0]}
    inputs = [sample["image"] for sample in data.validation()]
    assert len(inputs) == 64
    assert all(image[0].tobytes() in test for image in inputs)


def test_vision_text_longest_caption_fits_and_unknown_words_are_named() -> None:
    scene = captions.Scene("triangle", "orange", "medium", "centre")
    tokens = captions.tokenize([scene.caption(template) for template in captions.TEMPLATES])
    assert tokens.shape == (len(captions.TEMPLATES), captions.LENGTH)
    with pytest.raises(ValueError, match="pink"):
        captions.tokenize(["a pink circle"])


def test_vision_text_whole_model_exports_with_a_dynamic_batch(
    model: nn.Module, sample: dict[str, torch.Tensor]
) -> None:
    image = sample["image"].expand(3, -1, -1, -1).contiguous()
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(
        model, (image, sample["tokens"]), dynamic_shapes={"image": {0: batch}, "tokens": None}
    )
    torch.testing.assert_close(program.module()(sample["image"], sample["tokens"]), model(**sample))


@pytest.mark.parametrize(("part", "argument"), [("image_encoder", "image"), ("text_encoder", "tokens")])
def test_vision_text_parts_export_alone_and_agree_with_the_whole(
    model: nn.Module, sample: dict[str, torch.Tensor], part: str, argument: str
) -> None:
    program = torch.export.export(getattr(model, part), (), {argument: sample[argument]})
    embedding = program.module()(**{argument: sample[argument]})["embedding"]
    whole = model(**sample)[part.replace("encoder", "embedding")]
    torch.testing.assert_close(embedding, whole)
