"""The best of several candidates by noisy values, and what this choice is worth.

All candidates have the same image seeds, and the same parts are left out of each, so that noise which they share
cancels in their differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

#: A candidate is not told apart from the best one if it is better with at least this probability.
LEVEL = 0.05
_DRAWS = 20_000


@dataclass(frozen=True)
class Choice:
    """The choice of the lowest value.

    Attributes:
        best: Number of the chosen candidate.
        gaps: Distance of each candidate from the best one, at least 0.
        errors: Standard error of each distance; 0 for the best one.
        better: Probability that each candidate is better than the best one, by Student's t of their difference.
        other: Probability that another candidate has the lowest true value.
        optimism: Expected excess of the best one's true value over its search value, because it was chosen.
    """

    best: int
    gaps: tuple[float, ...]
    errors: tuple[float, ...]
    better: tuple[float, ...]
    other: float
    optimism: float

    @property
    def runner_up(self) -> int:
        """Number of the candidate with the second lowest value."""
        return min((number for number in range(len(self.gaps)) if number != self.best), key=self.gaps.__getitem__)

    @property
    def ties(self) -> list[int]:
        """Candidates that are not told apart from the best one."""
        return [number for number, share in enumerate(self.better) if number != self.best and share >= LEVEL]


def choose(values: Sequence[float], without: Sequence[Sequence[float]]) -> Choice:
    """Chooses the lowest value.

    The differences of candidates have the covariance of the jackknife over the K parts. ``other`` and ``optimism`` are
    shares and means over draws from Student's t with this covariance and K − 1 degrees of freedom. Noise adds to the
    scatter of the values, so that equal candidates would look apart. The draws therefore lie around shrunk values,
    whose scatter is that of the values less that of the noise, and at least 0. The draws have a fixed seed.

    Args:
        values: Search value of each candidate, at least two.
        without: For each candidate its values without one of the K parts.
    """
    estimates, left_out = np.asarray(values, dtype=np.float64), np.asarray(without, dtype=np.float64)
    count, parts = left_out.shape
    best = int(estimates.argmin())
    # Σ effects effectsᵀ is the covariance of the values.
    effects = (left_out - left_out.mean(1, keepdims=True)) * np.sqrt((parts - 1) / parts)
    gaps = estimates - estimates[best]
    errors = np.sqrt(((effects - effects[best]) ** 2).sum(1))
    # Without any noise equal candidates are as good as each other.
    ratios = np.divide(-gaps, errors, out=np.where(gaps > 0, -np.inf, 0.0), where=errors > 0)
    random = np.random.default_rng(0)
    noise = random.standard_normal((_DRAWS, parts)) @ effects.T
    noise /= np.sqrt(random.chisquare(parts - 1, (_DRAWS, 1)) / (parts - 1))
    of_noise = float(np.square(effects - effects.mean(0)).sum())
    scatter = float(np.square(estimates - estimates.mean()).sum())
    shrunk = gaps * np.sqrt(max(0.0, 1 - of_noise / scatter)) if scatter else gaps
    chosen = (shrunk + noise).argmin(1)
    # The noise of the best one has mean 0; its difference leaves out what all candidates share.
    excess = noise[:, best] - noise[np.arange(_DRAWS), chosen]
    others = 1 - np.bincount(chosen, minlength=count)[best] / _DRAWS
    better = stdtr(parts - 1, ratios)
    gaps_list, errors_list, better_list = ((*map(float, row),) for row in (gaps, errors, better))
    return Choice(best, gaps_list, errors_list, better_list, float(others), float(excess.mean()))
