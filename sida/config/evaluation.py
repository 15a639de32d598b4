"""When a student is measured while it is trained, by what, and when that ends its training; as data."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from sida.config.ranges import Count, Fraction, ObjectName, Positive, Range


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationPoints:
    """When a student is measured, and when that ends its training.

    Attributes:
        every_kimg: Thousands of images between two evaluations; with ``per_decade``, before the first.
        per_decade: null spaces evaluations evenly; a number makes them so many to each factor of ten in images, for
            curves over a logarithmic axis.
        patience: null trains to the end. A number ends the training when so many evaluations in a row were not better
            than the best before them: until the Fréchet distance plateaus, as in algorithm 1 of the paper. Those of
            the warm-up, and before the adversarial term joins, do not count.
        min_improvement: Share of the best value by which a lower one must beat it to count as better.
    """

    every_kimg: Positive
    per_decade: Count | None = None
    patience: Count | None = None
    min_improvement: Fraction = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings(EvaluationPoints):
    """Measuring while a student is trained.

    Attributes:
        monitor: ``module:factory`` of what measures.
        kwargs: Its keyword arguments.
    """

    monitor: ObjectName
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeEvaluation(EvaluationPoints):
    """Measuring with the preset's protocol while a student is trained; its selection chooses the network kept.

    Attributes:
        num_samples: Images of one evaluation.
        trials: Trials that are averaged.
    """

    num_samples: Annotated[int, Range(least=2)]
    trials: Count = 1
