"""Noise levels and weights of score losses that a recipe chooses, for teachers of flow matching among others.

A flow's time is t = σ / (1 + σ): 0 is the image and 1 pure noise. A logit-normal t is a log-normal σ.

Source: apple-aiml-research/ml-sid-dit:training/sid_dit_training_loop.py (SiD-DiT, arXiv:2509.25127), whose σ is t here;
vvvvvjdy/dmdr:train_cc/sit/utils.py (DMDR) for the times of a Beta distribution.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from sida.config.recipe import LevelDistribution, Recipe, ScoreWeight
from sida.late import Tensor, torch
from sida.methods.method import ScoreLoss
from sida.noise import Draw, Draws, lognormal_sigma, normal, sigma_of_time, uniform, unit_noise

#: Smallest divisor of a score term, for mean absolute errors and for functions of the level alike.
ERROR_FLOOR = 1e-5
#: Divisor of a score term by the name of its weight, as a function of σ.
DIVISORS: dict[str, Callable[[Tensor], Tensor]] = {
    "one_minus_t": lambda sigma: 1 + sigma,
    "one_minus_t_squared": lambda sigma: (1 + sigma).square(),
    "inverse_t": lambda sigma: sigma / (1 + sigma),
    "inverse_t_squared": lambda sigma: (sigma / (1 + sigma)).square(),
    "snr": lambda sigma: sigma.square(),
    "snr_sqrt": lambda sigma: sigma,
}
#: Intervals of the table of a Beta distribution's quantiles.
_INTERVALS = 2048


@dataclasses.dataclass(eq=False, kw_only=True)
class LeveledLoss(ScoreLoss):
    """A score loss whose levels and weights are settings; None and ``error`` select those of the method's paper.

    Attributes:
        level_distribution: Distribution of the levels of both steps: ``lognormal``: ln σ ~ N(P_mean, P_std²) by the
            fields of the derived class; ``beta``: t ~ Beta(a, b). None: each step has its own.
        time_beta: a and b at the beginning, and thousands of images over which both fall to 1, by half a cosine; 0
            keeps them. 1, 1 is a uniform time.
        score_weight: Weight of the generator's score term: ``error``: one over the teacher's mean error, or the name of
            one of :data:`DIVISORS`.
    """

    level_distribution: LevelDistribution | None = None
    time_beta: tuple[float, float, float] = Recipe.time_beta
    score_weight: ScoreWeight = Recipe.score_weight

    def begin(self, nimg: int) -> None:
        """See :meth:`~sida.methods.method.ScoreLoss.begin`; moves the Beta distribution."""
        if self.level_distribution == "beta":
            self._set_quantiles(*beta_at(nimg, *self.time_beta))

    def level_draws(self) -> dict[str, Draw]:
        """Kind of each draw of a step with the chosen levels, in the order of drawing."""
        if self.level_distribution == "lognormal":
            return {"sigma_normal": normal, "noise": unit_noise}
        return {"t": uniform, "noise": unit_noise}

    def generator_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.generator_draws`."""
        return super().generator_draws() if self.level_distribution is None else self.level_draws()

    def fake_score_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.fake_score_draws`."""
        return super().fake_score_draws() if self.level_distribution is None else self.level_draws()

    def chosen_sigma(self, draws: Draws, P_mean: float, P_std: float) -> Tensor:
        """Noise levels of the chosen distribution, ``(N, 1, 1, 1)``."""
        if self.level_distribution == "lognormal":
            return lognormal_sigma(draws["sigma_normal"], P_mean, P_std)
        return sigma_of_time(self._time(draws["t"]))

    def _time(self, draw: Tensor) -> Tensor:
        """Quantile of a uniform draw, of its shape and dtype, between neighbours of the table."""
        if not hasattr(self, "_quantiles"):
            self.begin(0)
        # A recorded CUDA graph reads this memory again, so `_set_quantiles` copies into it.
        self._quantiles: Tensor = self._quantiles.to(draw.device)
        position = draw * _INTERVALS
        below = position.floor().clamp(max=_INTERVALS - 1)
        first, second = (self._quantiles[(below + offset).long()].to(draw.dtype) for offset in (0, 1))
        return first + (second - first) * (position - below)

    def _set_quantiles(self, a: float, b: float) -> None:
        if getattr(self, "_set", None) == (a, b):
            return
        from scipy.special import betaincinv

        share = torch.arange(_INTERVALS + 1, dtype=torch.float64) / _INTERVALS
        table = torch.from_numpy(betaincinv(a, b, share.numpy()))
        if hasattr(self, "_quantiles"):
            self._quantiles.copy_(table)
        else:
            self._quantiles = table
        self._set = (a, b)


def beta_at(nimg: int, a: float, b: float, kimg: float) -> tuple[float, float]:
    """Parameters of the Beta distribution after ``nimg`` images, see :class:`LeveledLoss`."""
    share = (1 + math.cos(math.pi * min(nimg / (kimg * 1000), 1.0))) / 2 if kimg else 1.0
    return 1 + (a - 1) * share, 1 + (b - 1) * share


def level_divisor(score_weight: ScoreWeight, sigma: Tensor) -> Tensor:
    """Divisor of a score term with a weight that is a function of the level, the shape of ``sigma``."""
    return DIVISORS[score_weight](sigma).clamp_min(ERROR_FLOOR)
