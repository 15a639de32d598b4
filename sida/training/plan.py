"""Plan of a run: its length, the intervals of its events, and the rules that end it early."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from sida.training.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Points:
    """Numbers of images at which an event happens: multiples of ``every``, or ``every · 10^(k / per_decade)``.

    Attributes:
        every: Images between two points; on the logarithmic scale, the first point.
        per_decade: Number of points per factor of ten; None spaces the points evenly.
    """

    every: float
    per_decade: int | None = None

    def passed(self, nimg: int) -> int:
        """Number of points at or before ``nimg`` images."""
        if self.per_decade is None:
            return int(nimg // self.every)
        if nimg < self.every:
            return 0
        # The rounding of a logarithm must not lose a point that is met exactly.
        return math.floor(math.log10(nimg / self.every) * self.per_decade + 1e-9) + 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """Length of a run and intervals of its events, in images.

    Attributes:
        stage: Label of progress lines.
        total: Length of the run.
        batch_size: Images per iteration.
        tick: Interval of log records.
        snapshot: Points of snapshots; None writes no snapshots.
        evaluation: Points of evaluations; None never evaluates.
        patience: Number of consecutive evaluations without improvement that end the run; None trains to the end.
        min_improvement: Share by which a value must be lower than the best value before it.
        counted_after: Images after which evaluations count for patience; all phases of the method have begun by then.
        max_nan_share: Largest share of samples with NaN within a tick.
        state_seconds: Time between two states, in addition to those at events; 0 writes a state after each iteration.
        stop_diverged: Whether to stop a run that diverges.
        publish_diverged: Whether a hopeless run ends with a result instead of an error.
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
        """Returns the plan of a configuration, without evaluations; settings are in kimg, plans in images."""
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
        """Whether the last ``patience`` evaluations are no better than the evaluations before them.

        Args:
            evaluations: Images seen and value of each evaluation, in order.
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
