"""Score identity distillation: the fake score learns to denoise the generator's images, the generator learns from
the difference of the two scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sida.losses.edm import Augment
from sida.losses.noise import (
    Draws,
    Gamma,
    lognormal_sigma,
    score_weight,
    sigma_normal,
    sigma_of_t,
    uniform,
    unit_noise,
)
from sida.losses.terms import FakeScoreTerms, GeneratorTerms, Terms, counted, dropped, intact, keep

#: Floor of the mean absolute error that the generator's loss is divided by.
ERROR_FLOOR = 1e-5


class SiDLoss:
    """Losses of SiD, which needs no real images.

    With images x = G(z), noise n of level σ, f_φ = D_φ(x + n; σ) of the teacher and f_ψ of the fake score:

        denoising = w(σ) (f_ψ − x)²                                                   (fake score)
        sid       = (f_φ − f_ψ) [(f_φ − x) − α (f_φ − f_ψ)] / mean |x − f_φ|          (generator)

    Args:
        alpha: α; 1.2 by default in SiD, 1.0 in SiDA.
        t_max: Largest generator time in thousandths, in (0, 1000].
        P_mean: Mean of ln σ in the fake score's loss.
        P_std: Standard deviation of ln σ in the fake score's loss.
        sigma_data: Standard deviation of the data the weight is made for.
        gamma: The weight w(σ), see :func:`sida.losses.noise.score_weight`; the official code's is ``edm``.

    Source: SiD (arXiv:2404.04057), equation 23 and algorithm 1; facts 1-7 of tests/golden/README.md.
    """

    #: Whether the fake score is also a discriminator, so that its step wants real images.
    uses_real_images = False

    def __init__(
        self,
        alpha: float = 1.2,
        t_max: float = 800,
        P_mean: float = -1.2,
        P_std: float = 1.2,
        sigma_data: float = 0.5,
        gamma: Gamma = "edm",
    ) -> None:
        self.alpha, self.t_max, self.gamma = alpha, t_max, gamma
        self.P_mean, self.P_std, self.sigma_data = P_mean, P_std, sigma_data
        # An unknown name shall fail here and not in the first step.
        self.weight(torch.ones(1))

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """What each term is multiplied by before it is averaged over the images, by the term's name.

        Args:
            settings: The weights that people choose (λ), by the names of the recipe's keys.
            pixels: C·H·W.
        """
        return {"sid": settings["lambda_sid"], "denoising": settings["lambda_fake_score"]}

    def generator_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of the generator's step, float32 ``(N, 1, 1, 1)``: t uniform in [0, t_max/1000)."""
        return sigma_of_t(uniform(draws, images) * self.t_max / 1000)

    def fake_score_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of the fake score's step, float32 ``(N, 1, 1, 1)``: log-normal."""
        return lognormal_sigma(sigma_normal(draws, images), self.P_mean, self.P_std)

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """w(σ) of the fake score's (and discriminator's) terms, the shape of ``sigma``."""
        return score_weight(sigma, self.sigma_data, self.gamma)

    def generator_loss(
        self,
        true_score: torch.nn.Module,
        fake_score: torch.nn.Module,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        draws: Draws | None = None,
    ) -> GeneratorTerms | Terms:
        """Generator's terms per element; gradients flow through both networks into ``images``.

        Args:
            true_score: The teacher φ, frozen.
            fake_score: ψ, frozen for this step.
            images: The generator's images ``(N, C, H, W)``, with gradient.
            class_labels: ``(N, label_dim)`` or None.
            draws: ``t`` uniform in [0, 1) (before ``t_max``) and ``noise`` unit normal replace the random ones.
        """
        sigma = self.generator_sigma(images, draws)
        noisy = torch.addcmul(images, sigma, unit_noise(draws, images))
        true = true_score(noisy, sigma, class_labels)
        fake = fake_score(noisy, sigma, class_labels)
        per_element = self._sid(images, true, fake) / self._mean_error(images, true)
        mask = intact(per_element)
        return counted(GeneratorTerms(keep(mask, per_element)[0], None), dropped(mask))

    def fake_score_loss(
        self,
        fake_score: torch.nn.Module,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        real_images: torch.Tensor | None = None,
        augment: Augment | None = None,
        draws: Draws | None = None,
    ) -> FakeScoreTerms | Terms:
        """Fake score's terms per element.

        Args:
            fake_score: ψ in training mode.
            images: The generator's images ``(N, C, H, W)``, without gradient.
            class_labels: ``(N, label_dim)`` or None.
            real_images: Not used by SiD.
            augment: ``images -> (images, augment_labels)``; draws for itself.
            draws: ``sigma_normal`` and ``noise``, both unit normal, replace the random ones.
        """
        sigma = self.fake_score_sigma(images, draws)
        clean, augment_labels = (images, None) if augment is None else augment(images)
        noisy = torch.addcmul(clean, sigma, unit_noise(draws, images))
        denoised = fake_score(noisy, sigma, class_labels, augment_labels=augment_labels)
        error, weight = denoised - clean, self.weight(sigma)
        mask = intact(error)
        error, weight = keep(mask, error, weight)
        return counted(FakeScoreTerms(weight * error.square(), None), dropped(mask))

    def _sid(self, images: torch.Tensor, true: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        difference = true - fake
        return difference * torch.add(true - images, difference, alpha=-self.alpha)

    @staticmethod
    def _mean_error(images: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """1/ω: mean |x − f_φ| per sample, ``(N, 1, 1, 1)``, without gradient."""
        with torch.no_grad():
            return (images - true).abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(ERROR_FLOOR)
