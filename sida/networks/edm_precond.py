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
        """See `Precond.coefficients`; only c_skip and the numerator of c_out use the shifted σ."""
        return _shifted_coefficients(sigma, self.sigma_data, _GDD_EPS)


class ECTPrecond(EDMPrecond):
    """EDM preconditioning in training, and in evaluation the identity at σ = 0.003, as ECT's networks have it.

    Options as `EDMPrecond`.

    Source: locuslab/ect:training/networks.py.
    """

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        if self.training:
            return super().coefficients(sigma)
        return _shifted_coefficients(sigma, self.sigma_data, _ECT_EPS)


_GDD_EPS, _ECT_EPS = 0.002, 0.003


def _shifted_coefficients(sigma: Tensor, sigma_data: float, shift: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, _, c_in, c_noise = edm_coefficients(sigma, sigma_data)
    shifted = sigma - shift
    c_skip = sigma_data**2 / (shifted.square() + sigma_data**2)
    return c_skip, shifted * sigma_data * c_in, c_in, c_noise
