"""Train DigitNet and write digits.safetensors: `python -m examples.digits.train` from the repository root."""

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.digits.data import MEAN, STD, accuracy, pictures_of
from examples.digits.model import build

CHECKPOINT = Path(__file__).with_name("digits.safetensors")
EPOCHS, BATCH_SIZE, LEARNING_RATE, SEED = 30, 64, 3e-3, 0


def augment(images: Tensor) -> Tensor:
    """Turn (15 degrees), scale (10 %) and shift (3 pixels) each image at random: [n, 1, 28, 28] kept."""
    angle, scale, shift_x, shift_y = (torch.rand(4, len(images)) * 2 - 1) * torch.tensor(
        [[math.radians(15)], [0.1], [3 / 14], [3 / 14]]
    )
    cos, sin = angle.cos() * (1 + scale), angle.sin() * (1 + scale)
    affine = torch.stack([torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], 1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    black = -MEAN / STD
    return F.grid_sample(images - black, grid, align_corners=False) + black


def train() -> nn.Module:
    """The trained net, in eval mode: AdamW, one-cycle learning rate, label smoothing, seeded."""
    torch.manual_seed(SEED)
    images, labels = (torch.from_numpy(array) for array in pictures_of("train"))
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    steps = math.ceil(len(images) / BATCH_SIZE) * EPOCHS
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH_SIZE):
            logits = model(augment(images[batch]))["logits"]
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
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
            return {"logits": model(torch.from_numpy(inputs["image"]))["logits"].numpy()}

    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters} parameters, {CHECKPOINT.stat().st_size} bytes, {seconds:.0f} s")
    print(f"held-out accuracy {accuracy(predict):.4f}")


if __name__ == "__main__":
    main()
