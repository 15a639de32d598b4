"""Expectations as weighted sums: Gauss-Hermite over normal variables, Gauss-Legendre over the generator's times."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sida.losses import SiDLoss

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseLevels:
    """Noise levels of both steps with their shares, float64 ``(levels,)`` each.

    Attributes:
        times: The draw ``t`` in [0, 1) that gives each of the generator's levels.
        generator: σ of the generator's step.
        generator_shares: Shares of these levels, with sum 1.
        normals: The draw ``sigma_normal`` that gives each of ψ's levels.
        fake_score: σ of ψ's step.
        fake_score_shares: Shares of these levels, with sum 1.
        fake_score_weights: w(σ) of ψ's loss.
    """

    times: Array
    generator: Array
    generator_shares: Array
    normals: Array
    fake_score: Array
    fake_score_shares: Array
    fake_score_weights: Array


def noise_levels(loss: SiDLoss, count: int) -> NoiseLevels:
    """The levels of a loss, computed by the loss from its draws (in float32)."""
    places, shares = np.polynomial.legendre.leggauss(count)
    normals, weights = np.polynomial.hermite_e.hermegauss(count)
    # Rounded to float32, as in the loss.
    times = ((places + 1) / 2).astype(np.float32).astype(np.float64)
    normals = normals.astype(np.float32).astype(np.float64)
    blank = torch.zeros(count, 1, 1, 1)
    generator = loss.generator_sigma(blank, {"t": torch.tensor(times)}).flatten()
    fake_score = loss.fake_score_sigma(blank, {"sigma_normal": torch.tensor(normals)}).flatten()
    return NoiseLevels(
        times,
        generator.double().numpy(),
        shares / 2,
        normals,
        fake_score.double().numpy(),
        weights / weights.sum(),
        loss.weight(fake_score.double()).numpy(),
    )


def normal_grid(*counts: int) -> tuple[Tensor, Tensor]:
    """Nodes ``(P, len(counts))`` and shares ``(P,)`` of independent unit normals, float64.

    Args:
        *counts: Nodes of each variable; polynomials of degree up to ``2·count − 1`` in it are integrated exactly.
    """
    rules = [np.polynomial.hermite_e.hermegauss(count) for count in counts]
    nodes = np.stack([axis.ravel() for axis in np.meshgrid(*(rule[0] for rule in rules), indexing="ij")], -1)
    shares = functools.reduce(np.multiply.outer, [rule[1] / rule[1].sum() for rule in rules]).ravel()
    return torch.tensor(nodes), torch.tensor(shares)


@dataclasses.dataclass(eq=False)
class ExactLoss(SiDLoss):
    """:class:`SiDLoss` with a given divisor, and an α for each sample.

    The loss is affine in α, so the suite's terms at α = 0 and 1 give it for every α.

    Attributes:
        alphas: α by sample, broadcastable to ``(N, 1, 1, 1)``, or one number.
        divisor: Replacement of mean |x − f_φ|, broadcastable likewise. In few dimensions that mean depends on the
            sample's noise and the identities do not hold; in many dimensions it depends on the noise level only.
    """

    alphas: Tensor | float = 1.0
    divisor: Tensor | float = 1.0

    def _sid(self, images: Tensor, true: Tensor, fake: Tensor) -> Tensor:
        at_zero, at_one = (SiDLoss(alpha=alpha)._sid(images, true, fake) for alpha in (0.0, 1.0))
        return at_zero + self.alphas * (at_one - at_zero)

    def _mean_error(self, images: Tensor, true: Tensor) -> Tensor:  # type: ignore[override]
        return torch.as_tensor(self.divisor, dtype=images.dtype).broadcast_to(len(images), 1, 1, 1)


def as_images(points: Tensor) -> Tensor:
    """Points ``(..., 2)`` as images of two channels and one pixel, ``(N, 2, 1, 1)``."""
    return points.reshape(-1, 2, 1, 1)
