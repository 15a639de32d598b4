"""An example of a custom method: the generator follows the plain difference of two scores.

docs/add.md trains it: ``sida distill --method docs.examples.matching:METHOD``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from sida.config.recipe import SCORE_SETTINGS
from sida.config.settings import Positive
from sida.losses import MicroBatch, SiDLoss, Terms
from sida.losses.terms import Net, dropped_count, finite_mask, keep, unit_noise
from sida.methods import SID


@dataclasses.dataclass(frozen=True)
class MatchingOptions:
    """Settings that only this method has: ``options`` of a recipe.

    Attributes:
        weight: Weight of the generator's term.
    """

    weight: Positive = 100.0


@dataclasses.dataclass(eq=False)
class MatchingLoss(SiDLoss):
    """Distribution matching: the fake score learns as in SiD, and with x = G(z) the generator has

        matching = x · stopgrad[(f_ψ − f_φ) / mean |x − f_φ|]

    whose gradient at x is, up to a positive weight, that of the divergence KL(generator ‖ teacher) of noisy images. So
    no gradient passes the two networks.

    Source: DMD (arXiv:2311.18828), section 3.2, without its regression loss.
    """

    matching: float = 100.0

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """Of both terms."""
        return {"matching": self.matching, "denoising": settings["lambda_fake_score"]}

    def generator_terms(self, true_score: Net, fake_score: Net, given: MicroBatch) -> Terms:
        """Term ``matching``, per element ``(N', C, H, W)``."""
        images, class_labels, draws = given.images, given.class_labels, given.draws
        sigma = self.generator_sigma(images, draws)
        with torch.no_grad():
            noisy = images + sigma * unit_noise(draws, images)
            true = true_score(noisy, sigma, class_labels)
            direction = (fake_score(noisy, sigma, class_labels) - true) / self._mean_error(images, true)
        mask = finite_mask(direction)
        images, direction = keep(mask, images, direction)
        return Terms({"matching": images * direction}, dropped_count(mask))


METHOD = dataclasses.replace(
    SID,
    name="matching",
    title="Matching",
    about="the difference of two scores",
    loss=lambda parts: parts.make(MatchingLoss, matching=parts.options.weight),
    options=MatchingOptions,
    reads=SCORE_SETTINGS - {"alpha", "lambda_sid"},
    # The fake score must keep up with a generator that it does not judge in any other way.
    psi_steps=2,
)
