"""Train VisionText by contrast and write vision_text.safetensors: `python -m examples.vision_text.train`."""

import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.vision_text.captions import TEMPLATES, Scene, tokenize
from examples.vision_text.data import accuracy, normalize, scenes_of
from examples.vision_text.model import build

CHECKPOINT = Path(__file__).with_name("vision_text.safetensors")
EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, SEED = 8, 120, 2e-3, 0.05, 0


def caption_batch(scenes: list[Scene], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Caption each scene by a random template; mark every picture that each caption is true of.

    Returns:
        tokens, int64 [n, 12]; truth, float32 [n pictures, n captions], 1 where the caption fits the picture.
    """
    templates = [TEMPLATES[index] for index in rng.integers(len(TEMPLATES), size=len(scenes))]
    tokens = tokenize([scene.caption(template) for scene, template in zip(scenes, templates, strict=True)])
    truth = [
        [picture.fits(scene, template) for scene, template in zip(scenes, templates, strict=True)] for picture in scenes
    ]
    return torch.from_numpy(tokens), torch.tensor(truth, dtype=torch.float32)


def contrastive_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean cross-entropy of both directions, each true pair of a row or column weighted alike.

    Args:
        logits, truth: float32 [n, n]; every row and column of `truth` holds a 1.
    Source: Yang et al. 2022 (UniCL), arXiv:2204.03610, section 3.2.
    """
    by_picture = (logits.log_softmax(1) * truth).sum(1) / truth.sum(1)
    by_caption = (logits.log_softmax(0) * truth).sum(0) / truth.sum(0)
    return -(by_picture.mean() + by_caption.mean()) / 2


def train() -> nn.Module:
    """The trained model, in eval mode: AdamW, one-cycle learning rate, logit scale at most 100, seeded."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    scenes, pictures = scenes_of("train")
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = len(scenes) // BATCH_SIZE * EPOCHS
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        for batch in rng.permutation(len(scenes)).reshape(-1, BATCH_SIZE):
            tokens, truth = caption_batch([scenes[index] for index in batch], rng)
            loss = contrastive_loss(model(torch.from_numpy(normalize(pictures[batch])), tokens)["logits"], truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.get_parameter("log_scale").clamp_(max=math.log(100))
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def main() -> None:
    """Train, save every parameter and buffer, print the figures of the README."""
    torch.set_num_threads(1)
    start_s = time.perf_counter()
    model = train()
    seconds = time.perf_counter() - start_s
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, CHECKPOINT)

    def predict(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = model(torch.from_numpy(inputs["image"]), torch.from_numpy(inputs["tokens"]))
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters} parameters, {CHECKPOINT.stat().st_size} bytes, {seconds:.0f} s")
    print(f"held-out zero-shot accuracy {accuracy(predict):.4f}")


if __name__ == "__main__":
    main()
