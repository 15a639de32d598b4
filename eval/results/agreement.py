"""When does a measured mean agree with a published number? Rule EQ, used by audit tables, claims and comparisons.

The tolerance is three standard errors of the difference with a floor of one per cent (two per cent when the published
number has no spread), because a re-implementation of a metric differs a little in its last digits. Precision and
recall, printed with two decimals, get 0.01.

A number that is *better* than printed by more than that is not a reproduction: images of the data among the samples or
a wrong reference make numbers better, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from eval.results.published import Published
from eval.results.summary import Estimate

PUBLISHED_TRIALS = 10
_COARSE = {"precision": 0.01, "recall": 0.01}
_HIGHER_IS_BETTER = {"is", "precision", "recall", "accuracy"}

Outcome = Literal["agrees", "better", "worse"]
MARKS: dict[Outcome | None, str] = {None: "", "agrees": "✓", "better": "△", "worse": "✗"}
LEGEND = (
    "✓ agrees within the combined uncertainty (three standard errors of the difference, at least 1 %; 2 % where no "
    "spread was published; 0.01 for precision and recall); △ better, ✗ worse than printed by more than that"
)


@dataclass(frozen=True)
class Agreement:
    """Difference measured − published, the tolerance it is held against, and whether higher values are better."""

    difference: float
    tolerance: float
    higher: bool = False

    @property
    def outcome(self) -> Outcome:
        """Whether the two agree within the combined uncertainty, or the measured value is better or worse."""
        if abs(self.difference) <= self.tolerance + 1e-12:
            return "agrees"
        return "better" if (self.difference > 0) == self.higher else "worse"


def agreement(measured: Estimate, published: Published) -> Agreement:
    """Compares a measurement with a published number by rule EQ (see the module's text).

    Args:
        measured: Mean over trials; with a single trial its spread counts as unknown (0).
        published: Number as printed; its spread is over 10 evaluations. Its metric says which side is better.
    """
    metric = published.metric.lower()
    difference, higher = measured.mean - published.value, metric in _HIGHER_IS_BETTER
    if metric in _COARSE:
        return Agreement(difference, _COARSE[metric], higher)
    own = (measured.std or 0.0) ** 2 / measured.trials
    if published.std:
        error = math.sqrt(own + float(published.std) ** 2 / PUBLISHED_TRIALS)
        return Agreement(difference, max(3 * error, 0.01 * abs(published.value)), higher)
    return Agreement(difference, max(3 * math.sqrt(own), 0.02 * abs(published.value)), higher)
