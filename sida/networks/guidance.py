"""Guidance: a denoiser extrapolated away from a worse or less informed one, for samplers and for distillation alike.

    D_w(x; σ, c) = D_g(x; σ, c) + w (D(x; σ, c) − D_g(x; σ, c))

w = 1 is D itself, w = 0 the guide. A guide without classes gives classifier-free guidance (arXiv:2207.12598).

Source: NVlabs/edm2:generate_images.py, where the guide is a network of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sida.config.families import SHARED, misfit
from sida.errors import UserError


class GuidedDenoiser(nn.Module):
    """``D_w`` in the place of ``D``: what a student of a guided teacher takes for the true score.

    Gradients pass both networks. It denoises and no more: it has no encoder to judge images with.

    Args:
        net: D; called first.
        guide: D_g, which gets the classes if it has any.
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
    """The classes as a guide gets them: None where it has none, as EDM2's guides."""
    return class_labels if getattr(guide, "label_dim", 0) else None


def check_guide_fits(net: nn.Module, guide: nn.Module, where: str) -> None:
    """Requires that a network can guide another: as many pixels and channels, and as many classes or none.

    Raises:
        UserError: It cannot.
    """
    guided, guiding = ({name: getattr(network, name, None) for name in SHARED} for network in (net, guide))
    if fault := misfit(guided, guiding):
        raise UserError(f"{where}: {fault}")
