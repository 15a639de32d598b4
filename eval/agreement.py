"""When does a measured mean agree with a published number? Rule EQ, used by audit tables, claims and comparisons.

The tolerance is three standard errors of the difference with a floor of one per cent (two per cent when the published
number has no spread), because a re-implementation of a metric differs a little in its last digits. Precision and
recall, printed with two decimals, get 0.01.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from eval.published import Published
from eval.summary import Estimate

PUBLISHED_TRIALS = 10
_COARSE = {"precision": 0.01, "recall": 0.01}


@dataclass(frozen=True)
class Agreement:
    """Difference measured − published and the tolerance it is held against."""

    difference: float
    tolerance: float

    @property
    def within(self) -> bool:
        """Whether the two agree within the combined uncertainty."""
        return abs(self.difference) <= self.tolerance + 1e-12


def agreement(measured: Estimate, published: Published) -> Agreement:
    """Compares a measurement with a published number by rule EQ (see the module's text).

    Args:
        measured: Mean over trials; with a single trial its spread counts as unknown (0).
        published: Number as printed; its spread is over 10 evaluations.
    """
    difference = measured.mean - published.value
    coarse = _COARSE.get(published.metric.lower())
    if coarse is not None:
        return Agreement(difference, coarse)
    own = (measured.std or 0.0) ** 2 / measured.trials
    if published.std:
        error = math.sqrt(own + float(published.std) ** 2 / PUBLISHED_TRIALS)
        return Agreement(difference, max(3 * error, 0.01 * abs(published.value)))
    return Agreement(difference, max(3 * math.sqrt(own), 0.02 * abs(published.value)))
