"""Losses of SiD: the fake score learns to denoise generated images, the generator from the scores' difference."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import torch

from sida.config.recipe import EDM_P_MEAN, EDM_P_STD, SID_ALPHA, Recipe, ResolvedConfig
from sida.losses.terms import (
    Draws,
    MicroBatch,
    Net,
    ScoreLoss,
    Terms,
    dropped_count,
    finite_mask,
    keep,
    lognormal_sigma,
    sigma_normal,
    sigma_of_t,
    uniform,
    unit_noise,
)

#: Floor of the generator loss's divisor, a mean absolute error.
ERROR_FLOOR = 1e-5


@dataclasses.dataclass(eq=False)
class SiDLoss(ScoreLoss):
    """Losses of SiD, which needs no real images.

    With images x = G(z), noise n of level σ, f_φ = D_φ(x + n; σ) of the teacher and f_ψ of the fake score:

        denoising = w(σ) (f_ψ − x)²                                                   (fake score)
        sid       = (f_φ − f_ψ) [(f_φ − x) − α (f_φ − f_ψ)] / mean |x − f_φ|          (generator)

    Attributes:
        alpha: α.
        t_max: Largest generator time in thousandths, in (0, 1000].
        P_mean: Mean of ln σ in the fake score's loss.
        P_std: Standard deviation of ln σ in the fake score's loss.

    ``sigma_data`` and ``gamma`` are those of :class:`~sida.losses.terms.ScoreLoss`.

    Source: SiD (arXiv:2404.04057), equation 23 and algorithm 1; facts 1-7 of tests/golden/README.md.
    """

    alpha: float = SID_ALPHA
    t_max: float = Recipe.t_max
    P_mean: float = EDM_P_MEAN
    P_std: float = EDM_P_STD

    @classmethod
    def of(cls, recipe: ResolvedConfig, options: Any = None, /, **own: Any) -> Self:
        """See :meth:`~sida.losses.terms.ScoreLoss.of`."""
        shared = {"alpha": recipe.alpha, "t_max": recipe.t_max, "P_mean": recipe.P_mean, "P_std": recipe.P_std}
        return super().of(recipe, **{**shared, **own})

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """See :meth:`~sida.losses.terms.ScoreLoss.weights`."""
        return {"sid": settings["lambda_sid"], "denoising": settings["lambda_fake_score"]}

    def generator_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of the generator's step, float32 ``(N, 1, 1, 1)``: t uniform in [0, t_max/1000)."""
        return sigma_of_t(uniform(draws, images) * self.t_max / 1000)

    def fake_score_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of the fake score's step, float32 ``(N, 1, 1, 1)``: log-normal."""
        return lognormal_sigma(sigma_normal(draws, images), self.P_mean, self.P_std)

    def generator_terms(self, true_score: Net, fake_score: Net, given: MicroBatch) -> Terms:
        """Term ``sid``; see :class:`~sida.losses.terms.Loss`."""
        images, class_labels, draws = given.images, given.class_labels, given.draws
        sigma = self.generator_sigma(images, draws)
        noisy = torch.addcmul(images, sigma, unit_noise(draws, images))
        true, fake = true_score(noisy, sigma, class_labels), fake_score(noisy, sigma, class_labels)
        per_element = self._sid(images, true, fake) / self._mean_error(images, true)
        mask = finite_mask(per_element)
        return Terms({"sid": keep(mask, per_element)[0], "adversarial": None}, dropped_count(mask))

    def _sid(self, images: torch.Tensor, true: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        difference = true - fake
        return difference * torch.add(true - images, difference, alpha=-self.alpha)

    @staticmethod
    def _mean_error(images: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """1/ω: mean |x − f_φ| per sample, ``(N, 1, 1, 1)``, without gradient."""
        with torch.no_grad():
            return (images - true).abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(ERROR_FLOOR)
