"""An example of a custom method: the generator follows the plain difference of two scores.

docs/add.md trains it: ``sida distill --method docs.examples.matching:METHOD``.
"""

from __future__ import annotations

import dataclasses

import torch

from sida.config.settings import Positive
from sida.methods import SID
from sida.methods.method import Exposure, Net, RawTerms
from sida.methods.sid import SiDLoss
from sida.training import MicroBatch


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

    Attributes:
        options: Weight of the term. α and λ_SiD are no settings of this method.

    Source: DMD (arXiv:2311.18828), section 3.2, without its regression loss.
    """

    options: MatchingOptions = MatchingOptions()
    alpha: float = dataclasses.field(default=1.0, init=False)
    lambda_sid: float = dataclasses.field(default=0.0, init=False)

    def weights(self, pixels: int) -> dict[str, float]:
        """Factors of both terms."""
        return {"matching": self.options.weight, "denoising": self.lambda_fake_score}

    def generator_terms(self, true_score: Net, fake_score: Net, batch: MicroBatch) -> RawTerms:
        """Term ``matching``, per element ``(N', C, H, W)``."""
        x, labels, sigma = batch.images, batch.class_labels, self.generator_sigma(batch.draws)
        with torch.no_grad():
            noisy = x + sigma * batch.draws["noise"]
            true = true_score(noisy, sigma, labels)
            direction = (fake_score(noisy, sigma, labels) - true) / self.divisor(x, true, sigma)
        direction, x = batch.drop_nan(direction, x)
        return {"matching": x * direction}


METHOD = dataclasses.replace(
    SID,
    name="matching",
    title="Matching",
    about="the difference of two scores",
    loss=MatchingLoss,
    options=MatchingOptions,
    # The fake score must keep up with a generator that it does not judge in any other way.
    psi_steps=2,
    # No feature network trains it.
    saw=Exposure(),
)
