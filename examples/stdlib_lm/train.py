"""Train the language model and write stdlib_lm.safetensors: `python -m examples.stdlib_lm.train`.

2000 steps of 16 windows took 1184 s on one x86 thread with bfloat16 and gave a held-out perplexity of 11.250.
Interrupted, it goes on from build/stdlib_lm/training.pt and ends with the weights of an uninterrupted run; remove that
file to begin anew.
`--tokenizer` trains tokenizer.json anew and does no more.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from examples.stdlib_lm.corpus import TOKENIZER, library, train_tokenizer, training_stream
from examples.stdlib_lm.data import Arrays, perplexity
from examples.stdlib_lm.model import LENGTH, build

CHECKPOINT = Path(__file__).with_name("stdlib_lm.safetensors")
STATE = Path("build/stdlib_lm/training.pt")
STEPS, WARM_UP_STEPS, BATCH_SIZE, SEED = 2000, 100, 16, 0
LEARNING_RATE, WEIGHT_DECAY, BETAS, LARGEST_GRADIENT = 3e-3, 0.1, (0.9, 0.95), 1.0
STEPS_PER_REPORT, STEPS_PER_SAVE = 50, 200


def batch_of(stream: NDArray[np.int64], step: int) -> torch.Tensor:
    """The windows of a step, int64 [16, 129]: each epoch cuts the stream at a phase of its own and shuffles the pieces.

    They depend on the seed and the step alone.
    """
    per_epoch = (len(stream) - LENGTH - 1) // LENGTH // BATCH_SIZE
    epoch, position = divmod(step, per_epoch)
    rng = np.random.default_rng((SEED, epoch))
    phase = int(rng.integers(LENGTH))
    pieces = rng.permutation((len(stream) - phase - 1) // LENGTH)[position * BATCH_SIZE : (position + 1) * BATCH_SIZE]
    return torch.from_numpy(stream[phase + pieces[:, None] * LENGTH + np.arange(LENGTH + 1)])


def learning_rate(step: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    done = max(0.0, (step - WARM_UP_STEPS) / (STEPS - WARM_UP_STEPS))
    return LEARNING_RATE * min((step + 1) / WARM_UP_STEPS, 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; the norms' scales do not decay."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    scales = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": scales, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)


def train(stream: NDArray[np.int64]) -> tuple[nn.Module, float]:
    """The trained model, in eval mode, and the seconds spent on it: matrix products in bfloat16, weights in float32."""
    torch.manual_seed(SEED)
    model = build().train()
    optimizer = make_optimizer(model)
    first, seconds = 0, 0.0
    if STATE.is_file():
        state = torch.load(STATE, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]
        print(f"going on from step {first}", flush=True)
    start_s, losses = time.perf_counter() - seconds, []
    for step in range(first, STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        windows = batch_of(stream, step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(windows[:, :-1])["logits"]
        loss = F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        losses.append(loss.item())
        seconds, done = time.perf_counter() - start_s, step + 1
        if done % STEPS_PER_REPORT == 0 or done == STEPS:
            print(f"step {done} of {STEPS}: loss {np.mean(losses):.3f}, {seconds:.0f} s", flush=True)
            losses.clear()
        if done % STEPS_PER_SAVE == 0 or done == STEPS:
            save_state(model, optimizer, done, seconds)
    return model.eval(), seconds


def save_state(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    """Write all that training needs to go on; a half-written file never takes the place of a whole one."""
    STATE.parent.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
    torch.save(state, STATE.with_suffix(".new"))
    STATE.with_suffix(".new").replace(STATE)


def main() -> None:
    """Train, save the parameters, print the figures of the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", action="store_true", help="train tokenizer.json anew instead of the model")
    if parser.parse_args().tokenizer:
        train_tokenizer(library()).save(str(TOKENIZER))
        return
    torch.set_num_threads(1)
    stream = training_stream(library())
    print(f"{len(stream)} training tokens, {STEPS * BATCH_SIZE * LENGTH} to be seen", flush=True)
    model, seconds = train(stream)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, CHECKPOINT)

    def predict(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            return {"logits": model(torch.from_numpy(inputs["tokens"]))["logits"].numpy()}

    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters} parameters, {CHECKPOINT.stat().st_size} bytes, {seconds:.0f} s")
    print(f"held-out perplexity {perplexity(predict):.3f}")


if __name__ == "__main__":
    main()
