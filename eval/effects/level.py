"""Cost of reaching a level: images or seconds until a curve first falls to it, and ratios over training seeds.

A run that never reaches the level is *censored*: its cost is larger than the length of its training. Censored runs are
never dropped: a ratio with one censored run is a bound in one direction, a ratio of two censored runs is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.effects.contrast import CONFIDENCE, Estimated, Interval, mean_interval
from sida.errors import UserError

#: Where a curve reaches a level: on the straight line between two evaluations, or at the first evaluation below it.
Crossing = Literal["interpolated", "evaluation"]


@dataclass(frozen=True)
class Cost:
    """Cost of one run: until the level, or of the whole training if the level was not reached."""

    value: float
    reached: bool = True


def crossing(points: Sequence[tuple[float, float]], level: float, how: Crossing = "interpolated") -> Cost:
    """Images until a curve first falls to a level.

    Args:
        points: Images seen and value, in order of images; lower values are better.
        level: The level.
        how: ``interpolated``: linear between the last evaluation above the level and the first that is not above it;
            ``evaluation``: the first evaluation that is not above it, late by up to the distance of two evaluations.

    Raises:
        UserError: No evaluation.
    """
    if not points:
        raise UserError("the curve has no evaluation, so it reaches no level; train with an evaluation")
    for number, (images, value) in enumerate(points):
        if value > level:
            continue
        if number == 0 or how == "evaluation":
            return Cost(float(images))
        before, above = points[number - 1]
        # From an evaluation that was not finite (infinitely far above) the line falls at its very end.
        share = (above - level) / (above - value) if math.isfinite(above) else 1.0
        return Cost(before + share * (images - before))
    return Cost(float(points[-1][0]), reached=False)


def seconds_until(ticks: Sequence[tuple[float, float]], images: float) -> float:
    """Seconds of training until a number of images, by the ticks of its log, linear within a tick.

    Args:
        ticks: Images seen at the end of each tick, and the seconds of the tick without evaluations.
        images: Number of images, at most those at the last tick.

    Raises:
        UserError: The log ends before this number of images.
    """
    seen = spent = 0.0
    for end, seconds in ticks:
        if images <= end:
            return spent + seconds * ((images - seen) / (end - seen) if end > seen else 0.0)
        seen, spent = end, spent + seconds
    raise UserError(f"the training log ends at {seen:,.0f} images, before {images:,.0f}; its seconds are unknown")


@dataclass(frozen=True)
class Speedup:
    """Ratio of the costs B/A: the geometric mean over pairs of training seeds.

    Attributes:
        logarithm: Mean of the logarithms within teachers with its interval (Student's t); None for a single pair or if
            no ratio is known.
        ratios: Ratio of each pair; a bound if one side is censored, None if both are.
        never_a: Number of runs of A that never reach the level.
        never_b: Number of runs of B that never reach the level.
        mean: The geometric mean without an interval, also of a single pair.
    """

    logarithm: Estimated | None
    ratios: tuple[float | None, ...]
    never_a: int
    never_b: int
    mean: float | None

    @property
    def ratio(self) -> Interval | None:
        """The geometric mean with its interval."""
        found = self.logarithm
        if found is None or self.mean is None:
            return None
        ends = (math.exp(found.low), math.exp(found.high))
        return Interval(self.mean, found.standard_error, found.df, *ends, found.confidence)

    @property
    def bound(self) -> Literal["", "at least", "at most", "unknown"]:
        """Meaning of the ratio with censored runs: a bound from below or above, or unknown; empty without such runs."""
        if None in self.ratios or (self.never_a and self.never_b):
            return "unknown"
        return "at most" if self.never_a else "at least" if self.never_b else ""


def speedup(pairs: Mapping[str, Sequence[tuple[Cost, Cost]]], confidence: float = CONFIDENCE) -> Speedup:
    """Ratios of costs over pairs ``(A, B)`` of equal training seeds, by teacher.

    Args:
        pairs: Costs of both, all greater than 0.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        UserError: No pair, or a run that is at the level before its training begins.
    """
    everything = [pair for block in pairs.values() for pair in block]
    if not everything:
        raise UserError("no pair of training seeds")
    if any(cost.value <= 0 for pair in everything for cost in pair):
        raise UserError("a run lies at the level before it is trained; its cost is 0 and no ratio")
    known = [None if not (a.reached or b.reached) else b.value / a.value for a, b in everything]
    never_a, never_b = (sum(not pair[side].reached for pair in everything) for side in (0, 1))
    if None in known or (never_a and never_b):
        return Speedup(None, tuple(known), never_a, never_b, None)
    logs = {name: [math.log(b.value / a.value) for a, b in block] for name, block in pairs.items() if block}
    mean = math.exp(math.fsum(math.fsum(values) / len(values) for values in logs.values()) / len(logs))
    if min(map(len, logs.values())) < 2:
        return Speedup(None, tuple(known), never_a, never_b, mean)
    return Speedup(mean_interval(logs, confidence), tuple(known), never_a, never_b, mean)
