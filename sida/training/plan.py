"""Plan of a run: its length, the intervals of its events, and the rules that end it early.

The rules are functions of the run's log alone, so that a resumed run behaves the same.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sida.config.recipe import EvaluationSettings, RunConfig, StudentConfig
from sida.config.settings import from_mapping


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
    def from_config(cls, config: RunConfig, stage: str, begun: float = 0.0) -> Plan:
        """Returns the plan of a configuration; settings are in kimg, plans in images.

        Args:
            config: Settings of a teacher, or of a student, which may have evaluations.
            stage: Label of progress lines.
            begun: Images after which all phases of the method have begun.
        """
        more: dict[str, Any] = {}
        if isinstance(config, StudentConfig):
            more["max_nan_share"] = config.max_nan_share
            if config.evaluation is not None:
                given = from_mapping(EvaluationSettings, config.evaluation, "evaluation")
                more["evaluation"] = Points(given.every_kimg * 1000, given.per_decade)
                more |= {"patience": given.patience, "min_improvement": given.min_improvement, "counted_after": begun}
        return cls(
            stage=stage,
            total=config.total_kimg * 1000,
            batch_size=config.batch_size,
            tick=Points(config.tick_kimg * 1000),
            snapshot=None if config.snapshot_kimg is None else Points(config.snapshot_kimg * 1000),
            state_seconds=config.state_minutes * 60,
            stop_diverged=config.on_divergence == "stop",
            publish_diverged=config.on_divergence == "publish",
            **more,
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


#: An evaluation diverges if its selection value is this factor above the best value before it.
FAR_ABOVE_BEST = 3.0
#: A tick diverges if its mean gradient norm is the factor ``SPIKE`` above the median of the ticks before it. The median
#: needs at least the first number of ticks, and uses at most the second.
SPIKE, TICKS = 20.0, (10, 100)
#: Largest shares in a tick: of samples dropped for a NaN, and of iterations with gradients that are not finite.
NAN_SHARE, BAD_STEPS_SHARE = 0.01, 0.1

#: Largest last loss of a teacher per value of an image. A network that only shrinks the noisy image has a loss below 4
#: in EDM's weighting.
LOST_LOSS = 100.0


def hopeless(tick: Mapping[str, Any], max_nan_share: float) -> str | None:
    """Returns the reason to stop a run with too many NaN samples or no valid step, or None.

    Args:
        tick: A record of ``train.jsonl``.
        max_nan_share: Largest permitted share of samples dropped for a NaN.
    """
    dropped = tick["nan_count"] / max(tick["samples"], 1)
    if dropped > max_nan_share:
        return (
            f"{100 * dropped:.0f} % of the samples up to image {tick['nimg']:,} were NaN "
            f"(max_nan_share: {max_nan_share})"
        )
    if tick["bad_steps"] == tick["steps"]:
        return f"every step up to image {tick['nimg']:,} had NaN or infinite gradients"
    return None


def rising(evaluations: Sequence[tuple[int, float]], key: str) -> str | None:
    """Describes the last evaluation if it is far above the best, and the evaluation before it is not; else None.

    Args:
        evaluations: Images seen and value of each evaluation, in order; lower is better.
        key: Name of the value.
    """

    def far(count: int) -> bool:
        before = [value for _, value in evaluations[: count - 1]]
        return bool(before) and evaluations[count - 1][1] > FAR_ABOVE_BEST * min(before) > 0

    count = len(evaluations)
    if not far(count) or far(count - 1):
        return None
    (_, value), (where, best) = evaluations[-1], min(evaluations[:-1], key=lambda point: point[1])
    return f"{key} = {value:.4g} is {value / best:.1f} times its best ({best:.4g} at image {where:,})"


def lost(losses: Sequence[float | None], values: int, uncertainty: bool = False) -> str | None:
    """Returns the reason to reject the last network of a teacher's training, or None.

    Args:
        losses: Mean loss per image of each log record, in order.
        values: Numbers in an image.
        uncertainty: Whether the loss is the logarithm of an error, as with EDM2's uncertainty head.
    """
    found = [loss for loss in losses if loss is not None]
    if not found:
        return None
    last, least = found[-1], min(found)
    far = last - least > values * math.log(FAR_ABOVE_BEST) if uncertainty else last > FAR_ABOVE_BEST * least > 0
    if far:
        return f"its last loss per image is {last:.4g}, its lowest {least:.4g}"
    if last > LOST_LOSS * values:
        return f"its last loss is {last / values:.4g} for each value of an image, far above that of no network at all"
    return None


def unhealthy(ticks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describes the faults of the last log record that the record before it does not have.

    Args:
        ticks: Records of ``train.jsonl``, in order.
    """
    if not ticks:
        return []
    before = _faults(ticks[:-1]) if len(ticks) > 1 else {}
    return [line for name, line in _faults(ticks).items() if name not in before]


def _faults(ticks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    last, earlier, found = ticks[-1], ticks[-1 - TICKS[1] : -1], {}
    for name, norm in last["grad_norm"].items():
        norms = [tick["grad_norm"][name] for tick in earlier if tick["grad_norm"].get(name) is not None]
        if norm is None or len(norms) < TICKS[0]:
            continue
        usual = statistics.median(norms)
        if norm > SPIKE * usual > 0:
            found[name] = f"the gradient norm of {name} is {norm:.3g}, {norm / usual:.0f} times its median so far"
    dropped = last["nan_count"] / max(last["samples"], 1)
    if dropped > NAN_SHARE:
        found["nan"] = f"{100 * dropped:.0f} % of the samples were NaN"
    bad = last["bad_steps"] / max(last["steps"], 1)
    if bad > BAD_STEPS_SHARE:
        found["gradients"] = f"{100 * bad:.0f} % of the steps had NaN or infinite gradients"
    return found
