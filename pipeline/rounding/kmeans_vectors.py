"""k-means of short vectors, by Lloyd's iteration from good starts."""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLE = 1 << 15  # vectors that the centers are found with; all of them settle the last rounds
FIRST_ROUNDS = 4  # of each start
ROUNDS = 24  # of the best
LAST_ROUNDS = 1
AT_ONCE = 1 << 18  # distances that are held together: they fit the processor's cache


def cluster_vectors(vectors: Tensor, weights: Tensor, starts: list[Tensor], count: int, seed: int) -> Tensor:
    """`count` centers with a small sum of w (v - center)^2 over vectors and their parts.

    Args:
        vectors: float32, (number, parts), finite.
        weights: float32, like `vectors`, not negative.
        starts: centers to start from, beside the one that is drawn (k-means++).
    Returns:
        float32, (count, parts): of all starts the best, on a sample, then moved over all vectors.
    Source: Lloyd 1982, IEEE Trans. Inf. Theory 28(2); Arthur 2007, SODA, k-means++.
    """
    generator = torch.Generator().manual_seed(seed)
    sample, its_weights = vectors, weights
    if len(vectors) > SAMPLE:
        drawn = torch.randperm(len(vectors), generator=generator)[:SAMPLE]
        sample, its_weights = vectors[drawn], weights[drawn]
    best, least = vectors[:0], float("inf")
    for start in (_spread(sample, its_weights, count, generator), *starts):
        centers, error = _settle(sample, its_weights, start, FIRST_ROUNDS)
        if error < least:
            best, least = centers, error
    best, _ = _settle(sample, its_weights, best, ROUNDS)
    return _settle(vectors, weights, best, LAST_ROUNDS)[0]


def nearest(vectors: Tensor, weights: Tensor, centers: Tensor) -> tuple[Tensor, float]:
    """The center of each vector, int64 (number,), and the sum of the errors."""
    chunk = max(1, AT_ONCE // len(centers))
    against = torch.cat([centers.square(), -2 * centers], 1).T.contiguous()
    found, error = [], 0.0
    for part, scale in zip(torch.split(vectors, chunk), torch.split(weights, chunk), strict=True):
        scaled = scale * part
        least, place = (torch.cat([scale, scaled], 1) @ against).min(1)  # but for w v^2, the same for all centers
        found.append(place)
        error += float(least.double().sum() + (scaled * part).double().sum())
    return torch.cat(found), error


def _spread(vectors: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next center is a vector, drawn by its error so far."""
    chosen = [int(torch.randint(0, len(vectors), (1,), generator=generator))]
    error = torch.full((len(vectors),), torch.inf)
    while len(chosen) < count:
        error = torch.minimum(error, (weights * (vectors - vectors[chosen[-1]]).square()).sum(1))
        if not bool((error > 0).any()):  # fewer different vectors than centers
            chosen.append(chosen[-1])
            continue
        course = error.double().cumsum(0)
        place = torch.searchsorted(course, float(torch.rand((), generator=generator)) * course[-1], right=True)
        chosen.append(min(int(place), len(vectors) - 1))
    return vectors[chosen]


def _settle(vectors: Tensor, weights: Tensor, centers: Tensor, rounds: int) -> tuple[Tensor, float]:
    least, best = float("inf"), centers
    for _ in range(rounds):
        places, error = nearest(vectors, weights, centers)
        if error >= least * (1 - 1e-5):
            break
        least, best = error, centers
        mass = torch.zeros_like(centers).index_add_(0, places, weights)
        moment = torch.zeros_like(centers).index_add_(0, places, weights * vectors)
        centers = torch.where(mass > 0, moment / mass.clamp(min=1e-30), centers)
    places, error = nearest(vectors, weights, centers)
    return (centers, error) if error < least else (best, least)
