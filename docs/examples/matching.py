"""An example of a method of one's own: the generator follows the plain difference of two scores.

docs/add-a-method.md trains it: ``sida distill --method docs.examples.matching:METHOD``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from sida.config import Positive
from sida.losses import Draws, SiDLoss, Terms
from sida.losses.noise import unit_noise
from sida.losses.terms import dropped, intact, keep
from sida.methods import SID
from sida.training.student import Parts


@dataclasses.dataclass(frozen=True)
class MatchingOptions:
    """Settings that only this method has: ``options`` of a recipe.

    Attributes:
        weight: Weight of the generator's term.
    """

    weight: Positive = 100.0


class MatchingLoss(SiDLoss):
    """Distribution matching: the fake score learns as in SiD, and with x = G(z) the generator has

        matching = x · stopgrad[(f_ψ − f_φ) / mean |x − f_φ|]

    whose gradient at x is, up to a positive weight, that of the divergence KL(generator ‖ teacher) of noisy images. So
    no gradient passes the two networks.

    Source: DMD (arXiv:2311.18828), section 3.2, without its regression loss.
    """

    def __init__(self, weight: float, P_mean: float, P_std: float, t_max: float, sigma_data: float) -> None:
        super().__init__(t_max=t_max, P_mean=P_mean, P_std=P_std, sigma_data=sigma_data)
        self.matching_weight = weight

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """Of both terms."""
        return {"matching": self.matching_weight, "denoising": settings["lambda_fake_score"]}

    def generator_loss(
        self,
        true_score: torch.nn.Module,
        fake_score: torch.nn.Module,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        draws: Draws | None = None,
    ) -> Terms:
        """Term ``matching``, per element ``(N', C, H, W)``."""
        sigma = self.generator_sigma(images, draws)
        with torch.no_grad():
            noisy = images + sigma * unit_noise(draws, images)
            true = true_score(noisy, sigma, class_labels)
            direction = (fake_score(noisy, sigma, class_labels) - true) / self._mean_error(images, true)
        mask = intact(direction)
        images, direction = keep(mask, images, direction)
        return Terms({"matching": images * direction}, dropped(mask))


def make_loss(parts: Parts) -> MatchingLoss:
    """The loss, from the settings that it takes."""
    config = parts.config
    return MatchingLoss(parts.options.weight, config.P_mean, config.P_std, config.t_max, config.sigma_data)


METHOD = dataclasses.replace(
    SID,
    name="matching",
    title="Matching",
    about="the difference of two scores",
    loss=make_loss,
    options=MatchingOptions,
    # The fake score must keep up with a generator that it does not judge in any other way.
    psi_steps=2,
)
