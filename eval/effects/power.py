"""How many training seeds a difference needs, and how small a difference so many seeds can show.

Two-sided Welch test of a difference of two methods with equally many seeds from each of several teachers, as
:func:`eval.effects.contrast.difference` decides; its power by the non-central t distribution. The standard deviations
are taken as known: with few seeds they are not, and so the numbers say an order of magnitude.

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
#: More seeds or teachers than that are not looked for.
MOST = 1000
#: Quantiles of the estimated standard error that its distribution is summed over; power is right to 1e-4.
_POINTS = 2000


@dataclass(frozen=True)
class Scatter:
    """What scatters.

    Attributes:
        a: Standard deviation of method A over training seeds within a teacher.
        b: That of method B.
        teacher: Standard deviation over teachers of the difference itself; 0 speaks about the teachers at hand alone.
    """

    a: float
    b: float
    teacher: float = 0.0

    def __post_init__(self) -> None:
        if min(self.a, self.b, self.teacher) < 0 or not self.a + self.b + self.teacher > 0:
            raise UserError(f"standard deviations must be at least 0 and not all 0, got {self.a}, {self.b}")


def power_of(effect: float, scatter: Scatter, seeds: int, teachers: int = 1, confidence: float = CONFIDENCE) -> float:
    """Probability that the interval of the difference excludes 0 on the right side or the wrong one.

    Args:
        effect: True difference, in the unit of the standard deviations.
        scatter: Standard deviations.
        seeds: Training seeds of each method from each teacher, at least 2; 1 where teachers scatter.
        teachers: Teachers, at least 1; 2 where they scatter: then they are what the difference is repeated over.
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
    """Least number of training seeds of each method from each teacher; None where more than :data:`MOST`.

    The teachers are those at hand: their own scatter does not count, since no number of seeds averages it away.
    """
    within = Scatter(scatter.a, scatter.b)
    return _least(lambda seeds: power_of(effect, within, seeds, teachers, confidence), power)


def teachers_needed(
    effect: float, scatter: Scatter, seeds: int, power: float = POWER, confidence: float = CONFIDENCE
) -> int | None:
    """Least number of teachers with so many seeds each, for a statement about teachers in general.

    Raises:
        UserError: The scatter over teachers is 0.
    """
    if not scatter.teacher:
        raise UserError("teachers do not scatter here; ask for seeds")
    return _least(lambda teachers: power_of(effect, scatter, seeds, teachers, confidence), power)


def detectable(
    scatter: Scatter, seeds: int, teachers: int = 1, power: float = POWER, confidence: float = CONFIDENCE
) -> float:
    """The smallest true difference that so many seeds show with the wanted power."""
    from scipy.optimize import brentq

    error, df = _error(scatter, seeds, teachers)
    # With one degree of freedom the quantile is 12.7; the difference lies within a few of it.
    most = (t_quantile(confidence, df) + 10) * error * 4
    return float(brentq(lambda effect: power_of(effect, scatter, seeds, teachers, confidence) - power, 0.0, most))


def _error(scatter: Scatter, seeds: int, teachers: int) -> tuple[float, float]:
    """Standard error of the mean difference, and its degrees of freedom."""
    a, b = scatter.a**2 / seeds, scatter.b**2 / seeds
    if scatter.teacher:
        if teachers < 2:
            raise UserError("one teacher says nothing about others; use at least 2")
        return math.sqrt((scatter.teacher**2 + a + b) / teachers), teachers - 1.0
    if seeds < 2:
        raise UserError(f"{seeds} training seeds have no interval; use at least 2")
    return math.sqrt((a + b) / teachers), teachers * (seeds - 1) * (a + b) ** 2 / (a**2 + b**2)


def _least(power_with: Callable[[int], float], power: float) -> int | None:
    """The least number, from 2 on, whose power suffices; power rises with the number."""
    if power_with(MOST) < power:
        return None
    low, high = 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_with(middle) >= power else (middle, high)
    return high
