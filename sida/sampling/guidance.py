"""Guidance: extrapolation of a denoiser away from a weaker one, for samplers and distillation.

    D_w(x; σ, c) = D_g(x; σ, c) + w (D(x; σ, c) − D_g(x; σ, c))

w = 1 is D itself, w = 0 the guide. A guide without classes gives classifier-free guidance (arXiv:2207.12598).

Source: NVlabs/edm2:generate_images.py, where the guide is a separate network.
"""

from typing import Any, TypeGuard

import torch

from sida.config.families import IMAGE_OPTIONS, check_guide_images
from sida.errors import settings_in
from sida.networks import architecture, check_null_label, network_latents


def guided(own: torch.Tensor, guide: torch.Tensor, guidance: float, channels: int | None = None) -> torch.Tensor:
    """Extrapolation ``guide + guidance (own − guide)`` of outputs (N, C, H, W), of the first channels or of all."""
    result = guide.lerp(own, guidance)
    return result if channels is None else torch.cat([result[:, :channels], own[:, channels:]], 1)


def guides(gnet: Any, guidance: float, level: float, lowest: float, highest: float) -> TypeGuard[Any]:
    """Whether a sampler evaluates a guide at a level σ: it has one, its strength is not 1, and σ is in its interval."""
    return guidance != 1 and gnet is not None and lowest <= level <= highest


class Unlabelled(torch.nn.Module):
    """A network without a class, which guides the network itself (classifier-free guidance, arXiv:2207.12598).

    Args:
        net: Network with classes and a null label: it learned from dropped labels, or has a row for no class.
        where: Place named in errors.

    Raises:
        UserError: The network has no class, or no null label.
    """

    label_dim = 0

    def __init__(self, net: torch.nn.Module, where: str = "guide") -> None:
        super().__init__()
        check_null_label(architecture(net), where)
        self.net = net

    def forward(self, x: torch.Tensor, sigma: torch.Tensor | float, class_labels: object = None) -> torch.Tensor:
        """Denoised images without a class; arguments as of :meth:`sida.networks.Precond.forward`."""
        denoised: torch.Tensor = self.net(x, sigma, None)
        return denoised

    def velocity(self, x: torch.Tensor, time: float, class_labels: object = None) -> torch.Tensor:
        """Velocity without a class, see :meth:`sida.networks.Precond.velocity`."""
        velocity: torch.Tensor = self.net.velocity(x, time, None)  # type: ignore[operator]
        return velocity

    def at_step(self, x: torch.Tensor, step: int, class_labels: object = None) -> torch.Tensor:
        """Noise at a step without a class, see :meth:`sida.networks.transformer.DiTPrecond.at_step`."""
        outputs: torch.Tensor = self.net.at_step(x, step, None)  # type: ignore[operator]
        return outputs


class GuidedDenoiser(torch.nn.Module):
    """The guided denoiser ``D_w``, which serves as true score for a student of a guided teacher.

    Gradients flow through both networks. There is no encoder output for a discriminator.

    Args:
        net: D; called first.
        guide: D_g; gets the class labels if it has classes.
        guidance: w.
    """

    def __init__(self, net: torch.nn.Module, guide: torch.nn.Module, guidance: float) -> None:
        super().__init__()
        self.net, self.guide, self.guidance = net, guide, guidance

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor | float, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``D_w(x; σ)``, float32 ``(N, C, H, W)``; arguments as of :meth:`sida.networks.Precond.forward`."""
        denoised = self.net(x, sigma, class_labels)
        # Exactly D for w = 1.
        return self.guide(x, sigma, guide_labels(self.guide, class_labels)).lerp(denoised, self.guidance)


def guide_labels(guide: Any, class_labels: torch.Tensor | None) -> torch.Tensor | None:
    """Class labels for a guide: None if it has no classes, such as EDM2's guides."""
    return class_labels if getattr(guide, "label_dim", 0) else None


def check_guide_fits(net: torch.nn.Module, guide: torch.nn.Module, where: str) -> None:
    """Requires that ``guide`` can guide ``net``: equal images and channels, and equal classes or none.

    Raises:
        UserError: The guide does not fit.
    """
    guide = guide.net if isinstance(guide, Unlabelled) else guide
    of_net, of_guide = ({name: getattr(network, name, None) for name in IMAGE_OPTIONS} for network in (net, guide))
    with settings_in(where):
        check_guide_images(of_net, of_guide, network_latents(net), network_latents(guide))
