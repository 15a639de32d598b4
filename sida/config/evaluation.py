"""Settings of the evaluations during a training: their times, the monitor, and early stopping."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from sida.config.mapping import from_mapping
from sida.config.plugins import MONITOR
from sida.config.ranges import Count, Device, Fraction, Natural, ObjectName, Positive, Range
from sida.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationPoints:
    """Times of evaluations, and early stopping.

    Attributes:
        every_kimg: Thousands of images between two evaluations; with ``per_decade``, before the first.
        per_decade: Number of evaluations in each factor of ten of images, for curves over a logarithmic axis; null
            spaces evaluations evenly.
        patience: Number of evaluations in a row without improvement that ends the training: until the Fréchet distance
            plateaus, as in algorithm 1 of the paper. Evaluations in the warm-up, and before the adversarial term joins,
            do not count. null trains to the end.
        min_improvement: Share of the best value by which a new value must be lower to count as an improvement.
    """

    every_kimg: Positive
    per_decade: Count | None = None
    patience: Count | None = None
    min_improvement: Fraction = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings(EvaluationPoints):
    """Evaluation of a student during its training.

    Attributes:
        monitor: ``module:factory`` of the monitor, which measures the student.
        kwargs: Keyword arguments of the factory.
    """

    monitor: ObjectName
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.monitor == MONITOR:
            try:
                from_mapping(MonitorArguments, self.kwargs, "kwargs")
            except UserError as error:
                raise ValueError(str(error)) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorArguments:
    """Types of the arguments of :func:`eval.measuring.monitor.make_monitor`, where a file gives them."""

    dataset: dict[str, Any]
    protocol: str | dict[str, Any] = "digits"
    num_samples: Annotated[int, Range(least=2)] | None = None
    trials: Count = 1
    seed0: Natural = 0
    batch_size: Count | None = None
    device: Device = "cpu"
    threads: Natural = 0
    references: dict[str, str] | None = None
    extractors: dict[str, dict[str, Any]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeEvaluation(EvaluationPoints):
    """Evaluation of a student during its training with the preset's protocol, whose selection chooses the kept network.

    Attributes:
        num_samples: Images of one evaluation.
        trials: Number of trials to average.
    """

    num_samples: Annotated[int, Range(least=2)]
    trials: Count = 1
