"""Guidance: extrapolation of a denoiser away from a weaker one, for samplers and distillation.

    D_w(x; σ, c) = D_g(x; σ, c) + w (D(x; σ, c) − D_g(x; σ, c))

w = 1 is D itself, w = 0 the guide. A guide without classes gives classifier-free guidance (arXiv:2207.12598).

Source: NVlabs/edm2:generate_images.py, where the guide is a separate network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sida.config.families import GUIDE_OPTIONS, guide_mismatch
from sida.errors import UserError


class GuidedDenoiser(nn.Module):
    """The guided denoiser ``D_w``, which serves as true score for a student of a guided teacher.

    Gradients flow through both networks. There is no encoder output for a discriminator.

    Args:
        net: D; called first.
        guide: D_g; gets the class labels if it has classes.
        guidance: w.
    """

    def __init__(self, net: nn.Module, guide: nn.Module, guidance: float) -> None:
        super().__init__()
        self.net, self.guide, self.guidance = net, guide, guidance

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """``D_w(x; σ)``, float32 ``(N, C, H, W)``; arguments as of :meth:`sida.networks.Precond.forward`."""
        denoised = self.net(x, sigma, class_labels)
        return extrapolated(denoised, self.guide(x, sigma, guide_labels(self.guide, class_labels)), self.guidance)


def extrapolated(denoised: Tensor, by_guide: Tensor, guidance: float) -> Tensor:
    """``D_g + w (D − D_g)``; exactly ``denoised`` for w = 1."""
    return torch.lerp(by_guide, denoised, guidance)


def guide_labels(guide: Any, class_labels: Tensor | None) -> Tensor | None:
    """Class labels for a guide: None if it has no classes, such as EDM2's guides."""
    return class_labels if getattr(guide, "label_dim", 0) else None


def check_guide_fits(net: nn.Module, guide: nn.Module, where: str) -> None:
    """Requires that ``guide`` can guide ``net``: equal pixels and channels, and equal classes or none.

    Raises:
        UserError: The guide does not fit.
    """
    guided, guiding = ({name: getattr(network, name, None) for name in GUIDE_OPTIONS} for network in (net, guide))
    if fault := guide_mismatch(guided, guiding):
        raise UserError(f"{where}: {fault}")
