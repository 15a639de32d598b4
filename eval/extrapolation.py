"""FID∞ (Chong and Forsyth 2020): the Fréchet distance as the number of images grows without bound.

The distance of a finite sample is biased upwards by about b/n, b depending on the generator. Distances of subsets of
several sizes are fitted by a line in 1/n; its intercept estimates the unbiased value. Published numbers are at a fixed
n, so this metric cannot be compared with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from eval.frechet import frechet_distance
from sida.errors import UserError


@dataclass(frozen=True)
class Extrapolation:
    """A line through distances against 1/n.

    Attributes:
        value: Intercept, the estimate at n → ∞.
        slope: Slope of the line: at n images the bias is about slope / n.
        by_n: Distance by number of images.
    """

    value: float
    slope: float
    by_n: dict[str, float]


def frechet_infinity(
    features: torch.Tensor,
    mean: np.ndarray,
    cov: np.ndarray,
    points: int = 10,
    smallest: int | None = None,
    ddof: int = 0,
    seed: int = 0,
) -> Extrapolation:
    """Extrapolates the Fréchet distance of features to a reference.

    Args:
        features: Features (N, C).
        mean: Reference mean (C,).
        cov: Reference covariance (C, C).
        points: Number of subset sizes, evenly spaced from ``smallest`` to N (at most N − ``smallest`` + 1).
        smallest: Smallest subset; by default the larger of N // 10 and C + 1, because distances with singular
            covariances do not follow the line.
        ddof: Divisor N − ddof of the covariance.
        seed: Seed of the subsets.

    Raises:
        UserError: Too few features for the line.
    """
    total, width = features.shape
    smallest = max(total // 10, width + 1) if smallest is None else smallest
    if points < 2 or smallest < 2 or total < 2 * smallest:
        raise UserError("FID extrapolation", f"{total} images are too few for sizes from {smallest}", "measure more")
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = features.double().cpu().numpy()
    sizes = np.unique(np.linspace(smallest, total, points).round().astype(int))
    by_n: dict[str, float] = {}
    for size in sizes:
        subset = rows[rng.permutation(total)[:size]]
        by_n[str(size)] = frechet_distance(subset.mean(0), np.cov(subset, rowvar=False, ddof=ddof), mean, cov)
    slope, value = np.polyfit(1 / sizes, list(by_n.values()), 1)
    return Extrapolation(float(value), float(slope), by_n)
