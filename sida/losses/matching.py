"""Losses of Diff-Instruct and DMD: the generator follows the difference of two scores, without their gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from sida.losses.noise import Draws, indexed_sigma, lognormal_sigma, sigma_normal, uniform, unit_noise
from sida.losses.sid import SiDLoss
from sida.losses.terms import Net, Terms, dropped_count, finite_mask, keep


@dataclasses.dataclass(eq=False)
class DiffInstructLoss(SiDLoss):
    """Losses of Diff-Instruct. With images x = G(z), noise n of level σ and ``ln σ ~ N(P_mean, P_std²)``:

        kl = x · stopgrad[f_ψ − f_φ]                (generator; f_ψ and f_φ denoise x + n)

    The fake score's term ``denoising`` is SiD's. The gradient of ``kl`` equals that of the integral over σ of
    KL(generator ‖ teacher) of noisy images, with weight σ².

    Attributes:
        P_mean: Mean of ln σ, of both sides.
        P_std: Standard deviation of ln σ, of both sides.

    Source: Diff-Instruct (arXiv:2305.18455); pkulwj1994/diff_instruct:training/di_loss.py.
    """

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """See :meth:`SiDLoss.weights`; as in SiD, terms are sums over the elements of an image."""
        return {"kl": 1.0, "denoising": settings["lambda_fake_score"]}

    def generator_draws(self) -> tuple[str, ...]:
        """See :meth:`SiDLoss.generator_draws`."""
        return ("sigma_normal",)

    def generator_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of the generator's step, float32 ``(N, 1, 1, 1)``: log-normal."""
        return lognormal_sigma(sigma_normal(draws, images), self.P_mean, self.P_std)

    def generator_loss(
        self,
        true_score: Net,
        fake_score: Net,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        draws: Draws | None = None,
    ) -> Terms:
        """Term ``kl``, float32 ``(N', C, H, W)``; arguments as of :meth:`SiDLoss.generator_loss`."""
        sigma = self.generator_sigma(images, draws)
        with torch.no_grad():
            noisy = torch.addcmul(images, sigma, unit_noise(draws, images))
            difference = fake_score(noisy, sigma, class_labels) - true_score(noisy, sigma, class_labels)
        mask = finite_mask(difference)
        images, difference = keep(mask, images, difference)
        return Terms({"kl": images * difference}, dropped_count(mask))


@dataclasses.dataclass(eq=False)
class DMDLoss(SiDLoss):
    """Losses of DMD without its regression term. With images x = G(z) and noise n of level σ:

        kl = ½ (x − stopgrad[x − g])²,    g = (f_ψ − f_φ) / mean |x − f_φ|              (generator)

    The gradient of ``kl`` is g; the fake score's ``denoising`` is SiD's at other levels. σ is one of 1000 Karras levels
    (:func:`sida.losses.noise.indexed_sigma`), and both terms are means over the elements of an image.

    Attributes:
        generator_levels: Least and largest index of the generator's levels.
        fake_score_levels: Least and largest index of the fake score's levels.
        error_eps: Constant added to the divisor of g.

    Source: DMD (arXiv:2311.18828), algorithms 1 and 2; the levels of tianweiy/DMD2:main/edm/edm_guidance.py.
    """

    generator_levels: tuple[int, int] = (20, 980)
    fake_score_levels: tuple[int, int] = (0, 999)
    error_eps: float = 0.0

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """See :meth:`SiDLoss.weights`."""
        return {"kl": 1 / pixels, "denoising": settings["lambda_fake_score"] / pixels}

    def fake_score_draws(self) -> tuple[str, ...]:
        """See :meth:`SiDLoss.fake_score_draws`."""
        return ("t",)

    def generator_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of the generator's step, float32 ``(N, 1, 1, 1)``."""
        return indexed_sigma(uniform(draws, images), *self.generator_levels)

    def fake_score_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of the fake score's step, float32 ``(N, 1, 1, 1)``."""
        return indexed_sigma(uniform(draws, images), *self.fake_score_levels)

    def generator_loss(
        self,
        true_score: Net,
        fake_score: Net,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        draws: Draws | None = None,
    ) -> Terms:
        """Term ``kl``, float32 ``(N', C, H, W)``; arguments as of :meth:`SiDLoss.generator_loss`."""
        sigma = self.generator_sigma(images, draws)
        with torch.no_grad():
            noisy = torch.addcmul(images, sigma, unit_noise(draws, images))
        direction = self.direction(true_score, fake_score, images, class_labels, noisy, sigma)
        mask = finite_mask(direction)
        return Terms({"kl": halved_square(*keep(mask, images, direction))}, dropped_count(mask))

    def direction(
        self,
        true_score: Net,
        fake_score: Net,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        noisy: torch.Tensor,
        sigma: torch.Tensor,
    ) -> torch.Tensor:
        """Direction g, float32 ``(N, C, H, W)``, without gradient.

        Args:
            true_score: The teacher φ.
            fake_score: ψ.
            images: The generator's images ``(N, C, H, W)``.
            class_labels: ``(N, label_dim)`` or None.
            noisy: The images with noise, ``(N, C, H, W)``.
            sigma: Its levels, ``(N, 1, 1, 1)``.
        """
        with torch.no_grad():
            true = true_score(noisy, sigma, class_labels)
            fake = fake_score(noisy, sigma, class_labels)
            return (fake - true) / ((images - true).abs().mean(dim=(1, 2, 3), keepdim=True) + self.error_eps)


def halved_square(images: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """``½ (x − stopgrad[x − g])²`` per element, with value ½ g² and gradient g at x."""
    return (images - (images - direction).detach()).square() / 2
