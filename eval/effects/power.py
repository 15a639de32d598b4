"""Power of a comparison: the number of training seeds for a difference, and the smallest detectable difference.

The test is that of :func:`eval.effects.contrast.difference`: a two-sided Welch test for two methods with equally many
seeds from each of several teachers; its power follows from the non-central t distribution. The standard deviations are
taken as known. Estimates from few seeds are uncertain, so the numbers give an order of magnitude.

Source: J. Cohen, Statistical Power Analysis for the Behavioral Sciences, 2nd edition (1988), chapter 2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.effects.contrast import CONFIDENCE, t_quantile
from sida.errors import UserError

if TYPE_CHECKING:
    import numpy as np

POWER = 0.8
#: Largest number of seeds or teachers that is considered.
MOST = 1000
#: Number of quantiles over which the distribution of the estimated standard error is summed; power is exact to 1e-4.
_POINTS = 2000


@dataclass(frozen=True)
class Scatter:
    """Standard deviations of two methods and of teachers.

    Attributes:
        a: Standard deviation of method A over training seeds within a teacher.
        b: Standard deviation of method B over training seeds within a teacher.
        teacher: Standard deviation of the difference over teachers; 0 limits statements to the given teachers.
    """

    a: float
    b: float
    teacher: float = 0.0

    def __post_init__(self) -> None:
        if min(self.a, self.b, self.teacher) < 0 or not self.a + self.b + self.teacher > 0:
            raise UserError(f"standard deviations must be at least 0 and not all 0, got {self.a}, {self.b}")


def power_of(effect: float, scatter: Scatter, seeds: int, teachers: int = 1, confidence: float = CONFIDENCE) -> float:
    """Probability that the interval of the difference excludes 0, on either side.

    Args:
        effect: True difference, in the unit of the standard deviations.
        scatter: Standard deviations.
        seeds: Training seeds of each method from each teacher, at least 2; at least 1 with scatter over teachers.
        teachers: Teachers, at least 1; at least 2 with scatter over teachers, since the teachers are then the sample.
        confidence: Coverage of the interval, in (0, 1).
    """
    import numpy as np
    from scipy.special import ndtr

    error, df = _error(scatter, seeds, teachers)
    limit, shift = t_quantile(confidence, df), abs(effect) / error
    # The definition of the non-central t: scipy.stats.nct jumps at few degrees of freedom and large shifts.
    estimated = _estimated_errors(df)
    return float(np.mean(ndtr(shift - limit * estimated) + ndtr(-shift - limit * estimated)))


@functools.lru_cache(maxsize=64)
def _estimated_errors(df: float) -> np.ndarray:
    """Quantiles of the estimated standard error in units of the true one."""
    import numpy as np
    from scipy.special import chdtri

    return np.sqrt(chdtri(df, (np.arange(_POINTS) + 0.5) / _POINTS) / df)


def seeds_needed(
    effect: float, scatter: Scatter, teachers: int = 1, power: float = POWER, confidence: float = CONFIDENCE
) -> int | None:
    """Least number of training seeds of each method from each teacher; None for more than :data:`MOST`.

    The result is about the given teachers: scatter over teachers does not count, since more seeds cannot reduce it.
    """
    within = Scatter(scatter.a, scatter.b)
    return _least(lambda seeds: power_of(effect, within, seeds, teachers, confidence), power)


def teachers_needed(
    effect: float, scatter: Scatter, seeds: int, power: float = POWER, confidence: float = CONFIDENCE
) -> int | None:
    """Least number of teachers with ``seeds`` seeds each for a statement about teachers in general.

    Raises:
        UserError: The scatter over teachers is 0.
    """
    if not scatter.teacher:
        raise UserError("the standard deviation over teachers is 0; ask for the number of seeds instead")
    return _least(lambda teachers: power_of(effect, scatter, seeds, teachers, confidence), power)


def detectable(
    scatter: Scatter, seeds: int, teachers: int = 1, power: float = POWER, confidence: float = CONFIDENCE
) -> float:
    """Smallest true difference that ``seeds`` seeds show with the given power."""
    from scipy.optimize import brentq

    error, df = _error(scatter, seeds, teachers)
    # An upper end for the search: the quantile is at most 12.7 (one degree of freedom).
    most = (t_quantile(confidence, df) + 10) * error * 4
    return float(brentq(lambda effect: power_of(effect, scatter, seeds, teachers, confidence) - power, 0.0, most))


def _error(scatter: Scatter, seeds: int, teachers: int) -> tuple[float, float]:
    """Standard error of the mean difference, and its degrees of freedom."""
    a, b = scatter.a**2 / seeds, scatter.b**2 / seeds
    if scatter.teacher:
        if teachers < 2:
            raise UserError("one teacher cannot show the scatter over teachers; use at least 2")
        return math.sqrt((scatter.teacher**2 + a + b) / teachers), teachers - 1.0
    if seeds < 2:
        raise UserError(f"{seeds} training seeds have no interval; use at least 2")
    return math.sqrt((a + b) / teachers), teachers * (seeds - 1) * (a + b) ** 2 / (a**2 + b**2)


def _least(power_with: Callable[[int], float], power: float) -> int | None:
    """Least number, from 2 on, that has the given power; None above :data:`MOST`. Power rises with the number."""
    if power_with(MOST) < power:
        return None
    low, high = 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_with(middle) >= power else (middle, high)
    return high
