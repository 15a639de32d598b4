"""Means and differences over training seeds in blocks, with Welch's t interval.

A *block* is a teacher: seeds are compared within a block, and the differences of the blocks are averaged with equal
weights. The interval is about the given blocks: it contains the scatter of training seeds, not that of other teachers.
The two methods may scatter differently; the scatter of one method is equal in all blocks, so it is pooled over them.

Source: B. L. Welch, The generalization of 'Student's' problem when several different population variances are involved,
Biometrika 34 (1947); degrees of freedom by F. E. Satterthwaite, Biometrics Bulletin 2 (1946).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sida.errors import UserError

#: Values of training seeds by block, e.g. ``{"t30": [5.4, 5.3, 5.6], "t30b": [5.5, 5.2, 5.4]}``.
Blocks = Mapping[str, Sequence[float]]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its standard error and confidence interval; all in the unit of the values.

    Attributes:
        value: The estimate.
        standard_error: Its standard error.
        df: Degrees of freedom of the standard error.
        low: Lower end.
        high: Upper end.
        confidence: Coverage of the interval, 0..1.
    """

    value: float
    standard_error: float
    df: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Effect(Interval):
    """The difference A − B of two methods.

    Attributes:
        std: Standard deviation over training seeds within blocks, pooled over both methods.
        std_df: Its degrees of freedom.
        blocks: Difference within each block that both methods have; empty where they share none.
        seeds: Training seeds of A and of B.
    """

    std: float = 0.0
    std_df: int = 0
    blocks: Mapping[str, float] = field(default_factory=dict)
    seeds: tuple[int, int] = (0, 0)

    @property
    def standardised(self) -> float:
        """The difference in standard deviations over training seeds; infinite if all seeds give equal values."""
        if self.std > 0:
            return self.value / self.std
        return math.copysign(math.inf, self.value) if self.value else 0.0


def mean_interval(values: Blocks, confidence: float = CONFIDENCE) -> Interval:
    """The mean of the blocks' means, with its interval.

    Args:
        values: Values of training seeds; at least two in one of the blocks.
        confidence: Coverage, in (0, 1).

    Raises:
        UserError: No value, or a single seed in every block.
    """
    _check(values, "the mean")
    return _interval([(1, values)], confidence)


def difference(a: Blocks, b: Blocks, confidence: float = CONFIDENCE) -> Effect:
    """The difference A − B: within each block, then averaged over the blocks, with Welch's t interval.

    With one block this is the plain Welch interval. If A and B have no block in common (they come from different
    teachers), each side is the mean of its blocks, and the difference includes the difference of the teachers.

    Args:
        a: Values of method A, at least two in one of its blocks.
        b: Values of method B.
        confidence: Coverage, in (0, 1).

    Raises:
        UserError: No value, a single seed in every block of a method, or blocks of which only some are shared.
    """
    _check(a, "A")
    _check(b, "B")
    shared = [name for name in a if name in b]
    if shared and (odd := sorted({*a, *b} - set(shared))):
        raise UserError(f"only one side of the difference has runs of {', '.join(odd)}; compare equal teachers")
    interval = _interval([(1, a), (-1, b)], confidence)
    std, df = pooled_std([*a.values(), *b.values()])
    return Effect(
        **vars(interval),
        std=std,
        std_df=df,
        blocks={name: statistics.fmean(a[name]) - statistics.fmean(b[name]) for name in shared},
        seeds=(sum(map(len, a.values())), sum(map(len, b.values()))),
    )


def pooled_std(cells: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation within cells, pooled, and its degrees of freedom; cells with one value do not count.

    Raises:
        UserError: No cell has two values.
    """
    several = [cell for cell in cells if len(cell) > 1]
    df = sum(len(cell) - 1 for cell in several)
    if not df:
        raise UserError("no method has two training seeds, so their scatter is unknown; train another seed")
    return math.sqrt(sum((len(cell) - 1) * statistics.variance(cell) for cell in several) / df), df


def t_quantile(confidence: float, df: float) -> float:
    """Two-sided quantile of Student's t: 2.776 for 0.95 and four degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + confidence) / 2))


def _interval(sides: Sequence[tuple[int, Blocks]], confidence: float) -> Interval:
    """Sum over independent sides of ``± mean of the blocks' means``; each side has one variance within its blocks."""
    value = 0.0
    parts: list[tuple[float, int]] = []
    for sign, blocks in sides:
        cells = list(blocks.values())
        value += sign * math.fsum(map(statistics.fmean, cells)) / len(cells)
        std, df = pooled_std(cells)
        parts.append((std**2 * math.fsum(1 / len(cell) for cell in cells) / len(cells) ** 2, df))
    variance = math.fsum(part for part, _ in parts)
    # Without any scatter the degrees of freedom add up.
    below = math.fsum(part**2 / n for part, n in parts)
    freedom = variance**2 / below if below > 0 else float(sum(n for _, n in parts))
    error = math.sqrt(variance)
    half = t_quantile(confidence, freedom) * error
    return Interval(value, error, freedom, value - half, value + half, confidence)


def _check(values: Blocks, side: str) -> None:
    if not any(values.values()):
        raise UserError(f"no training seed of {side}")
    if all(len(cell) < 2 for cell in values.values()):
        raise UserError(f"one training seed of {side}{' from each teacher' * (len(values) > 1)}; an interval needs two")
