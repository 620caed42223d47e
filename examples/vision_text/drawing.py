"""Draw scenes: one shape on a noisy, unevenly lit background, 32 x 32 pixels, 8 bits a channel."""

import numpy as np
from numpy.typing import NDArray

from examples.vision_text.captions import Scene

SIDE = 32
_HUES = {
    "red": (0.85, 0.15, 0.15),
    "green": (0.15, 0.65, 0.20),
    "blue": (0.15, 0.30, 0.85),
    "yellow": (0.90, 0.85, 0.15),
    "purple": (0.60, 0.20, 0.75),
    "orange": (0.95, 0.50, 0.10),
}
_RADII = {"small": 5.0, "medium": 6.5, "large": 9.0}
_CENTRES = {"left": (10, 16), "right": (22, 16), "top": (16, 10), "bottom": (16, 22), "centre": (16, 16)}

Plane = NDArray[np.float64]


def _distance(shape: str, x: Plane, y: Plane) -> Plane:
    """How far a point is outside of a shape of radius 1 around the origin (negative: inside), about."""
    radius = np.hypot(x, y)
    match shape:
        case "circle":
            return radius - 0.95
        case "square":
            return np.maximum(np.abs(x), np.abs(y)) - 0.8
        case "triangle":
            return np.maximum(y - 0.65, 0.87 * np.abs(x) - 0.5 * y - 0.5)
        case "cross":
            small, large = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
            return np.maximum(large - 0.95, small - 0.3)
        case "ring":
            return np.abs(radius - 0.75) - 0.22
        case "star":
            return radius - 0.7 - 0.35 * np.cos(5 * (np.arctan2(y, x) + np.pi / 2))
    raise ValueError(f"shape {shape!r} cannot be drawn")


def draw(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One picture of the scene, uint8 [3, 32, 32]; place, size, turn, colour, light and noise vary."""
    across, down = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
    left, top = np.array(_CENTRES[scene.position]) + rng.uniform(-2, 2, 2)
    radius, angle = _RADII[scene.size] * rng.uniform(0.88, 1.12), rng.uniform(-0.3, 0.3)
    x, y = (across - left) / radius, (down - top) / radius
    x, y = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    cover = np.clip(0.5 - radius * _distance(scene.shape, x, y), 0, 1)

    slope = rng.uniform(-0.3, 0.3, 2)
    light = (across - 16) / SIDE * slope[0] + (down - 16) / SIDE * slope[1]
    background = rng.uniform(0.15, 0.85) + rng.uniform(-0.12, 0.12, (3, 1, 1)) + light
    colour = np.array(_HUES[scene.colour]) * rng.uniform(0.75, 1.1) + rng.uniform(-0.06, 0.06, 3)
    picture = background * (1 - cover) + colour[:, None, None] * cover
    picture = picture + rng.normal(0, rng.uniform(0.02, 0.1), picture.shape)
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
