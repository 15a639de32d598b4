"""Loss of Uni-Instruct: SiDA's terms, with the SiD term of each image weighted by an estimated density ratio."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch

from sida.config.recipe import ResolvedConfig
from sida.losses.sid import SiDLoss
from sida.losses.sida import LOGIT_LIMIT, SiDALoss
from sida.losses.terms import keep, mean_of_kept

#: Smallest and largest ratio of ``logits``; f-distill's.
RATIO_RANGE = (0.1, 20.0)


def expansion_weight(ratio: torch.Tensor, divergence: str) -> torch.Tensor:
    """Weight ``w = r² f''(r)`` of the SiD term; for ``jeffreys`` the mixture 0.6 + 0.4 r of the released code.

    Args:
        ratio: r = p_data / p_generator, any shape.
        divergence: Name of the f-divergence.

    Source: Uni-Instruct (arXiv:2505.20755), theorem 3.1; a-little-hoof/Uni_Instruct:fsim_training
        (commit 3cdf92e8).
    """
    weights: dict[str, Callable[[], torch.Tensor]] = {
        "forward-kl": lambda: ratio,
        "reverse-kl": lambda: torch.ones_like(ratio),
        "jeffreys": lambda: 0.6 + 0.4 * ratio,
        "chi-square": lambda: 2 * ratio.square(),
        "jensen-shannon": lambda: ratio / (1 + ratio),
    }
    return weights[divergence]()


@dataclasses.dataclass(eq=False)
class UniInstructLoss(SiDALoss):
    """SiDA's losses with a further term ``weighted_sid = w(r) sid``, which replaces ``sid`` in the adversarial phase.

    With the adversarial term L of an image, times C·H·W, and its logits l, averaged over positions:

        released   r = L / (L − 1), without gradient          (−log D in the place of D: r is 1 unless D is above 0.999)
        logits     r = clamp(exp l) / mean, then w / mean     (ours: means over the images, as in f-distill)

    Attributes:
        divergence: Name of the f-divergence, see :func:`expansion_weight`.
        ratio: Estimate of the density ratio.
        variance_reduction: Whether a ``released`` ratio is divided by the sum over the micro-batch.

    Source: a-little-hoof/Uni_Instruct:fsim_training/fsim_training_loop.py (``released``); docs/differences.md.
    """

    divergence: str = "forward-kl"
    ratio: str = "released"
    variance_reduction: bool = False

    @classmethod
    def of(cls, recipe: ResolvedConfig, options: Any = None, /, **own: Any) -> Self:
        """See :meth:`~sida.losses.terms.ScoreLoss.of`."""
        # Neither α, which is 1, nor the pool of the logits, which is the batch, is a setting of the method.
        shared = {"t_max": recipe.t_max, "P_mean": recipe.P_mean, "P_std": recipe.P_std}
        return super(SiDLoss, cls).of(recipe, **shared, **({} if options is None else vars(options)), **own)

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """See :meth:`~sida.losses.terms.ScoreLoss.weights`; ``weighted_sid`` has the factor of ``sid``."""
        return super().weights(settings, pixels) | {"weighted_sid": settings["lambda_sid"]}

    def further_terms(
        self, sid: torch.Tensor, adversarial: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """See :meth:`SiDALoss.further_terms`."""
        if self.ratio == "released":
            weight = expansion_weight(self.released_ratio(adversarial * sid[0].numel()), self.divergence)
        else:
            (ratio,) = keep(mask, logits.detach().mean(dim=(1, 2, 3), keepdim=True))
            ratio = ratio.clamp(-LOGIT_LIMIT, LOGIT_LIMIT).exp().clamp(*RATIO_RANGE)
            weight = expansion_weight(ratio / mean_of_kept(mask, ratio), self.divergence)
            weight = weight / mean_of_kept(mask, weight)
        return {"weighted_sid": weight * sid}

    def released_ratio(self, adversarial: torch.Tensor) -> torch.Tensor:
        """The released code's ratio, from the adversarial term times C·H·W; any shape."""
        loss = adversarial.detach()
        ratio = loss / (loss - 1)
        return ratio / (ratio.sum() + 1e-8) if self.variance_reduction else ratio
