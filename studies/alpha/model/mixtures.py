"""Mixtures of isotropic Gaussians, with exact densities, denoisers and samples at every noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """R mixtures of K equally likely Gaussians in two dimensions.

    Attributes:
        means: Means of the modes, float64 ``(R, K, 2)``.
        scales: Standard deviations, float64 ``(R, K)``; their sign does not matter.
    """

    means: Tensor
    scales: Tensor

    @property
    def modes(self) -> int:
        """Number K of modes."""
        return self.means.shape[1]

    def log_density(self, places: Tensor, sigma: Tensor) -> Tensor:
        """Log density of the noisy variable x + σn.

        Args:
            places: y, ``(R, P, 2)``.
            sigma: Noise levels, broadcastable to ``(R, P)``; 0 for the density of x itself.

        Returns:
            ``(R, P)``.
        """
        return torch.logsumexp(self._joint(places, sigma)[0], -1)

    def denoise(self, places: Tensor, sigma: Tensor) -> Tensor:
        """E[x | y], ``(R, P, 2)``: the modes' expectations, weighted by their probabilities.

        Arguments as of :meth:`log_density`.
        """
        joint, offsets, variance = self._joint(places, sigma)
        gain = self.scales.square()[:, None, :] / variance
        own = self.means[:, None] + gain[..., None] * offsets
        return (torch.softmax(joint, -1)[..., None] * own).sum(-2)

    def samples(self, latents: Tensor) -> Tensor:
        """Samples mean + scale·z for latents z ``(P, 2)``, mode by mode, ``(R, K·P, 2)``."""
        return (self.means[:, :, None] + self.scales[:, :, None, None] * latents).flatten(1, 2)

    def _joint(self, places: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ln(weight·density) of each mode ``(R, P, K)``, offsets ``(R, P, K, 2)`` and variances ``(R, P, K)``."""
        offsets = places[:, :, None] - self.means[:, None]
        noise = torch.as_tensor(sigma, dtype=places.dtype)
        variance = self.scales.square()[:, None, :] + (noise.square()[..., None] if noise.ndim else noise.square())
        joint = -offsets.square().sum(-1) / (2 * variance) - (2 * math.pi * variance).log() - math.log(self.modes)
        return joint, offsets, variance


def two_modes(distance: float, scale: float, copies: int = 1) -> Mixture:
    """The mixture with modes at ±``distance`` on the first axis."""
    means = torch.tensor([[-distance, 0.0], [distance, 0.0]], dtype=torch.float64).expand(copies, 2, 2)
    return Mixture(means, torch.full((copies, 2), scale, dtype=torch.float64))
