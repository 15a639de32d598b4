"""Guidance: extrapolation of a denoiser away from a weaker one, for samplers and distillation.

    D_w(x; σ, c) = D_g(x; σ, c) + w (D(x; σ, c) − D_g(x; σ, c))

w = 1 is D itself, w = 0 the guide. A guide without classes gives classifier-free guidance (arXiv:2207.12598).

Source: NVlabs/edm2:generate_images.py, where the guide is a separate network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sida.config.families import IMAGE_OPTIONS, check_guide_images
from sida.errors import settings_in
from sida.networks import architecture, check_null_label, network_latents


@dataclass(frozen=True)
class Guide:
    """A guiding network for a sampler, with the channels and levels that it guides.

    Attributes:
        net: D_g.
        class_labels: Its one-hot rows ``(N, label_dim)``; None if it has no classes.
        strength: w.
        channels: Number of leading channels that are guided; None is all.
        lowest, highest: Levels σ with guidance; a flow's time t is the level t / (1 − t).
    """

    net: Any
    class_labels: torch.Tensor | None = None
    strength: float = 1.0
    channels: int | None = None
    lowest: float = 0.0
    highest: float = math.inf

    def __call__(self, own: torch.Tensor, level: float, output: Callable[[Any, Any], torch.Tensor]) -> torch.Tensor:
        """Extrapolated output ``(N, C, H, W)``; ``output(net, class_labels)`` is one like ``own``, called if needed."""
        if self.strength == 1 or not self.lowest <= level <= self.highest:
            return own
        result = output(self.net, self.class_labels).lerp(own, self.strength)
        return result if self.channels is None else torch.cat([result[:, : self.channels], own[:, self.channels :]], 1)


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
        """Noise at a step of a discrete diffusion, without a class."""
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
