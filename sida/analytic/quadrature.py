"""Expectations as weighted sums: Gauss-Hermite over normal variables, Gauss-Legendre over the generator's times."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sida.losses import SiDLoss

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Levels:
    """Noise levels of both steps with their shares, float64 ``(levels,)`` each.

    Attributes:
        times: The draw ``t`` in [0, 1) that gives each of the generator's levels.
        generator: σ of the generator's step.
        generator_shares: Sum to 1.
        normals: The draw ``sigma_normal`` that gives each of ψ's levels.
        fake_score: σ of ψ's step.
        fake_score_shares: Sum to 1.
        fake_score_weights: w(σ) of ψ's loss.
    """

    times: Array
    generator: Array
    generator_shares: Array
    normals: Array
    fake_score: Array
    fake_score_shares: Array
    fake_score_weights: Array


def noise_levels(loss: SiDLoss, count: int) -> Levels:
    """The levels of a loss, as the loss itself makes them of its draws (in float32)."""
    places, shares = np.polynomial.legendre.leggauss(count)
    normals, weights = np.polynomial.hermite_e.hermegauss(count)
    # As the loss rounds them.
    times = ((places + 1) / 2).astype(np.float32).astype(np.float64)
    normals = normals.astype(np.float32).astype(np.float64)
    blank = torch.zeros(count, 1, 1, 1)
    generator = loss.generator_sigma(blank, {"t": torch.tensor(times)}).flatten()
    fake_score = loss.fake_score_sigma(blank, {"sigma_normal": torch.tensor(normals)}).flatten()
    return Levels(
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
        *counts: Nodes of each variable; polynomials up to degree ``2·count − 1`` in it are integrated exactly.
    """
    rules = [np.polynomial.hermite_e.hermegauss(count) for count in counts]
    nodes = np.stack([axis.ravel() for axis in np.meshgrid(*(rule[0] for rule in rules), indexing="ij")], -1)
    shares = functools.reduce(np.multiply.outer, [rule[1] / rule[1].sum() for rule in rules]).ravel()
    return torch.tensor(nodes), torch.tensor(shares)
