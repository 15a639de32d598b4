"""The plan of a run: how long it is, what happens how often, and when it ends before its length."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from sida.training.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Points:
    """Numbers of images at which something happens: multiples of ``every``, or ``every · 10^(k / per_decade)``.

    Attributes:
        every: Images between two of them; on the logarithmic scale, the first.
        per_decade: How many to each factor of ten; None spaces them evenly.
    """

    every: float
    per_decade: int | None = None

    def passed(self, nimg: int) -> int:
        """How many lie at or before ``nimg`` images."""
        if self.per_decade is None:
            return int(nimg // self.every)
        if nimg < self.every:
            return 0
        # A point that is met exactly must not be lost to the rounding of a logarithm.
        return math.floor(math.log10(nimg / self.every) * self.per_decade + 1e-9) + 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is and what happens how often, in images.

    Attributes:
        stage: Label of progress lines.
        total: Length of the run.
        batch_size: Images per iteration.
        tick: Log records.
        snapshot: Kept networks; None keeps none on the way.
        evaluation: Evaluations; None never evaluates.
        patience: Evaluations in a row without improvement that end the run; None trains to the end.
        min_improvement: Share by which a value must be lower than the best before it.
        counted_after: Images after which evaluations count for patience: all phases of the method have begun.
        max_nan_share: Largest share of samples with NaN within a tick.
        state_seconds: Time between two kept states, beside those at events; 0 keeps one after each iteration.
        stop_diverged: Whether a run that diverges is stopped.
        publish_diverged: Whether a run from which nothing is left to learn ends as a result instead of with an error.
    """

    stage: str
    total: float
    batch_size: int
    tick: Points
    snapshot: Points | None = None
    evaluation: Points | None = None
    patience: int | None = None
    min_improvement: float = 0.0
    counted_after: float = 0.0
    max_nan_share: float = 1.0
    state_seconds: float = 300.0
    stop_diverged: bool = False
    publish_diverged: bool = False

    @classmethod
    def from_config(cls, config: RunConfig, stage: str) -> Plan:
        """The plan of a configuration without evaluations; settings count thousands of images, plans images."""
        return cls(
            stage=stage,
            total=config.total_kimg * 1000,
            batch_size=config.batch_size,
            tick=Points(config.tick_kimg * 1000),
            snapshot=None if config.snapshot_kimg is None else Points(config.snapshot_kimg * 1000),
            state_seconds=config.state_minutes * 60,
            stop_diverged=config.on_divergence == "stop",
            publish_diverged=config.on_divergence == "publish",
        )

    def plateaued(self, evaluations: Sequence[tuple[int, float]]) -> bool:
        """Whether evaluations end the run: the last ``patience`` of them in a row were no better than what was before.

        Args:
            evaluations: Images seen and value of each, in order.
        """
        best, since = math.inf, 0
        for nimg, value in evaluations:
            if nimg <= self.counted_after:
                continue
            if value < best * (1 - self.min_improvement):
                best, since = value, 0
            else:
                since += 1
        return self.patience is not None and since >= self.patience
