"""EDM's preconditioning (Karras et al. 2022, table 1, column "Ours") and GDD's variant of it."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from sida.networks.precond import Precond, edm_coefficients, find_unet


class EDMPrecond(Precond):
    """EDM preconditioning: unit variance of input and training target at every noise level.

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`.
        sigma_min: Lowest supported noise level.
        sigma_max: Highest one; None = infinite.
        sigma_data: Standard deviation of the data.
        model_type: ``SongUNet`` or ``DhariwalUNet``.
        **model_kwargs: Further options of that U-Net.

    Raises:
        UserError: Unknown option or network.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.0,
        sigma_max: float | None = math.inf,
        sigma_data: float = 0.5,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Any,
    ):
        super().__init__()
        self.sigma_data = sigma_data
        self.sigma_min = sigma_min
        self.sigma_max = math.inf if sigma_max is None else sigma_max
        self._build(locals(), find_unet(model_type, "EDMPrecond.model_type"), model_kwargs)

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        return edm_coefficients(sigma, self.sigma_data)


class GDDPrecond(EDMPrecond):
    """EDM preconditioning that is the identity at σ = 0.002 instead of 0, as GDD's one-step generators have it.

    Options as `EDMPrecond`.

    Source: GDD (arXiv:2405.20750); ``tests/golden/README.md``, fact 22.
    """

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`; only c_skip and the numerator of c_out see the shifted σ."""
        _, _, c_in, c_noise = edm_coefficients(sigma, self.sigma_data)
        shifted = sigma - _GDD_EPS
        c_skip = self.sigma_data**2 / (shifted.square() + self.sigma_data**2)
        return c_skip, shifted * self.sigma_data * c_in, c_in, c_noise


_GDD_EPS = 0.002
