"""Preconditioning of VP and VE diffusion models (Karras et al. 2022, table 1, columns VP and VE)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sida.networks.precond import Precond, find_unet


class VPPrecond(Precond):
    """Variance-preserving preconditioning (DDPM++ teachers trained with the VP loss).

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`.
        beta_d: Extent of the noise schedule.
        beta_min: Start of the noise schedule.
        M: Number of time steps that c_noise is scaled to.
        epsilon_t: Smallest time; gives ``sigma_min``.
        model_type: ``SongUNet`` or ``DhariwalUNet``.
        **model_kwargs: Further options of that U-Net.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
        model_type: str = "SongUNet",
        **model_kwargs: Any,
    ):
        super().__init__()
        self.beta_d = beta_d
        self.beta_min = beta_min
        self.M = M
        self._build(locals(), find_unet(model_type, "VPPrecond.model_type"), model_kwargs)
        with torch.device("cpu"):  # real numbers, even if the network is built on the meta device
            self.sigma_min = float(self.sigma(epsilon_t))
            self.sigma_max = float(self.sigma(1.0))

    def coefficients(self, sigma: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        return None, -sigma, (sigma.square() + 1).rsqrt(), (self.M - 1) * self.sigma_inv(sigma)

    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise level at time t of [0, 1]."""
        t = torch.as_tensor(t)
        return (0.5 * self.beta_d * t.square() + self.beta_min * t).expm1().sqrt()

    def sigma_inv(self, sigma: Tensor | float) -> Tensor:
        """Time at which the noise level is ``sigma``."""
        integral = torch.as_tensor(sigma).square().log1p()
        return ((self.beta_min**2 + 2 * self.beta_d * integral).sqrt() - self.beta_min) / self.beta_d


class VEPrecond(Precond):
    """Variance-exploding preconditioning (NCSN++ teachers trained with the VE loss).

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`.
        sigma_min: Lowest supported noise level.
        sigma_max: Highest one.
        model_type: ``SongUNet`` or ``DhariwalUNet``.
        **model_kwargs: Further options of that U-Net.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.02,
        sigma_max: float = 100.0,
        model_type: str = "SongUNet",
        **model_kwargs: Any,
    ):
        super().__init__()
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self._build(locals(), find_unet(model_type, "VEPrecond.model_type"), model_kwargs)

    def coefficients(self, sigma: Tensor) -> tuple[None, Tensor, None, Tensor]:
        """See `Precond.coefficients`."""
        return None, sigma, None, (0.5 * sigma).log()
