"""The stdlib_lm example: its checkpoint, its tokens, its splits, its perplexity."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

pytest.importorskip("tokenizers", reason="tokenizers is not installed")

from examples.stdlib_lm import corpus, data
from examples.stdlib_lm.model import LENGTH, VOCABULARY, build
from examples.stdlib_lm.train import batch_of, learning_rate

CHECKPOINT = Path(data.__file__).with_name("stdlib_lm.safetensors")
HELD_OUT_PERPLEXITY = 11.250
"""In float32; 11.268 with the library of Python 3.11.2, 10.939 with that of 3.13."""


@pytest.fixture(scope="module")
def model() -> nn.Module:
    net = build()
    net.load_state_dict(load_file(CHECKPOINT), strict=True)
    return net.eval()


def run(model: nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(tokens))["logits"].numpy()


def test_stdlib_lm_checkpoint_loads_strictly_is_small_and_groups_divide_its_layers(model: nn.Module) -> None:
    assert set(load_file(CHECKPOINT)) == set(model.state_dict())
    assert CHECKPOINT.stat().st_size < 12_000_000
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 28
    assert all(layer.in_features % 128 == 0 for layer in layers)


def test_stdlib_lm_float_model_has_the_stated_perplexity(model: nn.Module) -> None:
    found = data.perplexity(lambda inputs: {"logits": run(model, inputs["tokens"])})
    assert found == pytest.approx(HELD_OUT_PERPLEXITY, rel=0.04)


def test_stdlib_lm_log_likelihood_is_minus_the_logarithm_of_perplexity(model: nn.Module) -> None:
    logits = run(model, data.windows("held-out")[:, :-1].copy())
    expected = -np.log(data.perplexity(lambda _: {"logits": logits}))
    assert data.log_likelihood(lambda _: {"logits": logits}) == pytest.approx(expected)


def test_stdlib_lm_perplexity_of_equal_logits_is_the_vocabulary_and_of_the_truth_one() -> None:
    windows = data.windows("held-out")[:4]
    truth = 100.0 * (windows[:, 1:, None] == np.arange(VOCABULARY))
    assert data.perplexity(lambda _: {"logits": np.zeros((4, LENGTH, VOCABULARY))}, windows) == pytest.approx(1024)
    assert data.perplexity(lambda _: {"logits": truth}, windows) == pytest.approx(1)


def test_stdlib_lm_logits_depend_on_no_later_token(model: nn.Module) -> None:
    tokens = data.windows("held-out")[:1, :-1].copy()
    changed = tokens.copy()
    changed[:, 64:] = (changed[:, 64:] + 1) % VOCABULARY
    one, other = run(model, tokens), run(model, changed)
    np.testing.assert_allclose(one[:, :64], other[:, :64], atol=1e-4)
    assert np.abs(one[:, 64:] - other[:, 64:]).max() > 1


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=50, deadline=None)
def test_stdlib_lm_any_text_survives_its_tokens(text: str) -> None:
    tokenizer = corpus.load_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_stdlib_lm_tokenizer_has_the_models_vocabulary_and_is_worth_its_size() -> None:
    tokenizer = corpus.load_tokenizer()
    assert tokenizer.get_vocab_size() == VOCABULARY
    assert tokenizer.token_to_id(corpus.FILE_START) == 0
    text = Path(corpus.__file__).read_text(encoding="utf-8")
    assert len(tokenizer.encode(text).ids) < len(text) / 2


def test_stdlib_lm_splits_are_disjoint_and_hold_the_librarys_own_modules() -> None:
    root = corpus.library()
    train, calibration, held_out = (set(corpus.files_of(part, root)) for part in ("train", "calibration", "held-out"))
    assert train | calibration | held_out == set(corpus.files(root))
    assert len(train) + len(calibration) + len(held_out) == len(corpus.files(root))
    assert len(train) > 200
    assert min(len(calibration), len(held_out)) > 20
    assert not any(name.startswith(("test/", "site-packages/", "config-")) for name in corpus.files(root))


def test_stdlib_lm_split_depends_on_names_alone(tmp_path: Path) -> None:
    for name in ("one.py", "package/two.py", "package/test/three.py", "idlelib/four.py", "_sysconfigdata_x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("pass\n", encoding="utf-8")
    assert corpus.files(tmp_path) == ["one.py", "package/two.py"]
    parts = [corpus.part_of(name) for name in ("argparse.py", "zipfile.py", "runpy.py")]
    assert parts == ["train", "calibration", "held-out"]


def test_stdlib_lm_an_edit_changes_the_windows_that_it_edits_and_no_other(tmp_path: Path) -> None:
    name = next(name for name in (f"module{n}.py" for n in range(100)) if corpus.part_of(name) == "held-out")
    functions = [f"def function_{n}(x):\n" + f"    x = x * {n} + 1\n" * 40 + "    return x\n" for n in range(8)]
    (tmp_path / name).write_text("\n\n".join(functions), encoding="utf-8")
    before = {window.tobytes() for window in corpus.windows_of("held-out", 8, tmp_path)}
    functions[3] = functions[3].replace("+ 1", "+ 22")
    (tmp_path / name).write_text('"""A new docstring."""\n\n\n' + "\n\n".join(functions), encoding="utf-8")
    after = {window.tobytes() for window in corpus.windows_of("held-out", 8, tmp_path)}
    assert (len(before), len(after), len(before & after)) == (8, 8, 7)


def test_stdlib_lm_samples_are_deterministic_single_and_of_their_parts() -> None:
    for samples, part, count in ((data.calibration, "calibration", 192), (data.validation, "held-out", 32)):
        first, second = list(samples()), list(samples())
        assert len(first) == count
        for one, other, window in zip(first, second, data.windows(part)[:count], strict=True):
            assert (one["tokens"].shape, one["tokens"].dtype) == ((1, LENGTH), np.int64)
            np.testing.assert_array_equal(one["tokens"], other["tokens"])
            np.testing.assert_array_equal(one["tokens"][0], window[:-1])


def test_stdlib_lm_batches_depend_on_the_step_alone_and_an_epoch_repeats_nothing() -> None:
    stream = np.arange(20_000)
    batches = [batch_of(stream, step).numpy() for step in range(9)]  # (20 000 - 129) // 128 // 16 = 9 steps
    np.testing.assert_array_equal(batch_of(stream, 5).numpy(), batches[5])
    starts = np.concatenate(batches)[:, 0]
    assert len(set(starts)) == len(starts) == 144
    assert not np.array_equal(batch_of(stream, 9).numpy(), batches[0])


def test_stdlib_lm_learning_rate_warms_up_and_falls_to_a_hundredth() -> None:
    rates = [learning_rate(step) for step in range(2000)]
    assert max(rates) == pytest.approx(3e-3)
    assert rates[0] == pytest.approx(3e-5)
    assert rates[-1] == pytest.approx(3e-5, rel=0.01)


def test_stdlib_lm_model_exports_with_a_dynamic_batch(model: nn.Module) -> None:
    tokens = torch.from_numpy(data.windows("held-out")[:3, :-1].copy())
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(model, (tokens,), dynamic_shapes={"tokens": {0: batch}})
    torch.testing.assert_close(program.module()(tokens[:1])["logits"], model(tokens[:1])["logits"])
