"""Where an isotropic generator comes to rest that cannot match its data, by α, and how good it is there."""

from __future__ import annotations

from typing import Any

import numpy as np

from sida.analytic.gaussian import Gaussians
from sida.analytic.quadrature import Array


def at_rest(model: Gaussians, alphas: Array) -> dict[str, Any]:
    """Widths and distances at rest.

    Returns:
        By α, null where the generator never rests: ``widths``, ``frechet`` (the Fréchet distance Σ (r − s)²),
        ``reverse_kl`` (KL(generator ‖ data) in nats). ``fisher_width``: of the least Fisher divergence, as at α = ½;
        ``frechet_width`` of the least Fréchet distance; ``frechet_alpha`` the α that rests there.
    """
    widths = [model.fixed_point(float(alpha)) for alpha in alphas]
    best = float(model.scales.mean())
    return {
        "widths": widths,
        "frechet": [None if width is None else frechet(model, width) for width in widths],
        "reverse_kl": [None if width is None else reverse_kl(model, width) for width in widths],
        "fisher_width": model.fixed_point(0.5),
        "frechet_width": best,
        "frechet_alpha": resting_alpha(model, best),
    }


def resting_alpha(model: Gaussians, width: float) -> float:
    """The α for which ``width`` is a zero of the pull, which is affine in α."""
    at_zero, at_one = model.pull(width, 0.0), model.pull(width, 1.0)
    return at_zero / (at_zero - at_one)


def frechet(model: Gaussians, width: float) -> float:
    """Fréchet distance of N(0, width²) and the data: Σ (width − s)²."""
    return float(((width - model.scales) ** 2).sum())


def reverse_kl(model: Gaussians, width: float) -> float:
    """KL(generator ‖ data) in nats."""
    ratio = (width / model.scales) ** 2
    return float(0.5 * (ratio - 1 - np.log(ratio)).sum())


def restless_above(model: Gaussians, most: float = 4.0) -> float | None:
    """The α above which the generator never comes to rest but widens without end; None where that is > ``most``."""
    low, high = 1.0, most
    if model.fixed_point(high) is not None:
        return None
    for _ in range(24):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if model.fixed_point(middle) is not None else (low, middle)
    return high
