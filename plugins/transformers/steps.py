"""Noise levels of diffusions with discrete steps, and the step of any level."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sida.networks.body import constants_device

#: Step of a level between two steps: the straight line in ln σ between them, or the nearer one.
BetweenSteps = Literal["log-linear", "nearest"]


class NoiseSteps(nn.Module):
    """Steps i = 0, 1, ... of a discrete diffusion, at the levels ``σ_i = √((1 − ᾱ_i) / ᾱ_i)``, ``ᾱ_i = Π (1 − β_j)``.

    Args:
        betas: β of each step, float64 ``(steps,)`` with content.
        between: See :data:`BetweenSteps`.

    Attributes:
        sigma_min: Level of step 0.
        sigma_max: Level of the last step.
    """

    log_sigmas: Tensor

    def __init__(self, betas: Tensor, between: BetweenSteps = "log-linear") -> None:
        super().__init__()
        alphas_cumprod = (1 - betas.double()).cumprod(0)
        log_sigmas = ((1 - alphas_cumprod) / alphas_cumprod).log() / 2
        self.between = between
        self.sigma_min, self.sigma_max = log_sigmas[0].exp().item(), log_sigmas[-1].exp().item()
        # In float64: cosines of large steps would show the rounding of ln σ.
        self.register_buffer("log_sigmas", log_sigmas.to(constants_device()), persistent=False)

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ of each step, float64 ``(steps,)``."""
        return (-2 * self.log_sigmas).sigmoid()

    def forward(self, sigma: Tensor) -> Tensor:
        """Step of each level, float32 of the same shape; levels beyond the ends have the steps of the ends."""
        log, count = sigma.double().log(), len(self.log_sigmas)
        upper = torch.searchsorted(self.log_sigmas, log).clamp(1, count - 1)
        low, high = self.log_sigmas[upper - 1], self.log_sigmas[upper]
        step = upper - 1 + ((log - low) / (high - low)).clamp(0, 1)
        return (step.round() if self.between == "nearest" else step).float()


def linear_betas(steps: int, first: float, last: float) -> Tensor:
    """β on a straight line (DDPM, arXiv:2006.11239, section 4), float64 ``(steps,)``."""
    return torch.linspace(first, last, steps, dtype=torch.float64, device="cpu")
