"""Means and differences over training seeds in blocks, with Welch's t interval.

A *block* is a teacher: seeds are compared within a block, and the differences of the blocks are averaged with equal
weights. The interval is about these blocks: it contains the variance of training seeds, not that of other teachers.
The two methods may have different variances. An F test shows whether the blocks differ from each other by more than
their seeds do; if they do, their average describes none of them.

A training's draws depend on its seed and not on its teacher, so trainings of equal seeds from several teachers share
their noise. The interval follows the design of the trainings:

- *one teacher*: the seeds of one block are independent;
- *nested*: each training has a seed of its own, so that all trainings are independent; a method's variance is
  equal in all blocks and pooled over them;
- *crossed*: every teacher has the same seeds, so that only the means of the seeds over the teachers are independent.

Source: B. L. Welch, The generalization of 'Student's' problem when several different population variances are involved,
Biometrika 34 (1947); degrees of freedom by F. E. Satterthwaite, Biometrics Bulletin 2 (1946).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sida.errors import UserError


class NotMeasuredError(UserError):
    """Measurements are missing, so a statement about them is not decided."""


#: Values of trainings by block and seed, e.g. ``{"t30": {1: 5.4, 2: 5.3}, "t30b": {3: 5.5, 4: 5.2}}``.
Blocks = Mapping[str, Mapping[int | None, float]]
Design = Literal["one teacher", "nested", "crossed"]
CONFIDENCE = 0.95
#: Coverage of intervals that decide: of two equal generators one in a hundred comparisons decides wrongly.
DECIDING = 0.99
#: Probability with which a plan's number of seeds shows a gap.
POWER = 0.8


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
        blocks: The same within each block of training seeds, with intervals from the pooled variance; of a
            difference only blocks that both methods have.
        blocks_p: p value of the F test that the blocks are equal; None with less than two blocks.
        designs: Designs of the trainings, of each side of a difference.
    """

    value: float
    standard_error: float
    df: float
    low: float
    high: float
    confidence: float = CONFIDENCE
    blocks: Mapping[str, Interval] = field(default_factory=dict)
    blocks_p: float | None = None
    designs: tuple[Design, ...] = ()

    @property
    def design(self) -> str:
        """Design of the trainings in words; empty where no training seeds were compared."""
        return " against ".join(dict.fromkeys(self.designs))

    @property
    def blocks_differ(self) -> bool:
        """Whether the blocks differ by more than their seeds do."""
        return self.blocks_p is not None and self.blocks_p < 1 - CONFIDENCE

    def moved(self, factor: float, shift: float) -> Interval:
        """The interval of ``factor · value + shift``."""
        low, high = sorted((factor * self.low + shift, factor * self.high + shift))
        error, value = abs(factor) * self.standard_error, factor * self.value + shift
        blocks = {name: block.moved(factor, shift) for name, block in self.blocks.items()}
        return dataclasses.replace(self, value=value, standard_error=error, low=low, high=high, blocks=blocks)

    def p_value(self, claimed: float = 0.0) -> float:
        """Two-sided p value of a claimed true value by Student's t; 0 or 1 without any variance."""
        from scipy.special import stdtr

        distance = abs(self.value - claimed)
        if not self.standard_error > 0:
            return float(distance == 0)
        return float(2 * stdtr(self.df, -distance / self.standard_error))


def detection(gap: float, std: float, seeds: int, confidence: float = CONFIDENCE) -> float:
    """Probability that the t interval of a difference excludes 0: the noncentral t distribution's, by quadrature.

    Args:
        gap: True difference of two methods.
        std: Standard deviation over the training seeds of each, in the unit of ``gap``.
        seeds: Training seeds of each, at least 2, from one teacher.
        confidence: Coverage of the interval, in (0, 1).
    """
    import numpy as np
    from scipy.special import chdtri, ndtr, stdtrit

    df, shift = 2 * seeds - 2, gap / (std * math.sqrt(2 / seeds))
    # Midpoints of equally likely values of the estimated standard error; scipy's nctdtr is not finite at large shifts.
    errors = np.sqrt(chdtri(df, (np.arange(2000) + 0.5) / 2000) / df)
    limits = stdtrit(df, (1 + confidence) / 2) * errors
    return float(np.mean(ndtr(shift - limits) + ndtr(-limits - shift)))


def chances(
    gap: float,
    stds: tuple[float, float],
    seeds: tuple[int, int],
    low: float,
    high: float,
    confidence: float = DECIDING,
) -> tuple[float, float]:
    """Probabilities that Welch's interval of a difference lies inside a range, and outside it; by quadrature.

    Args:
        gap: True difference of two methods.
        stds: Standard deviation over the training seeds of each, above 0, in the unit of ``gap``.
        seeds: Training seeds of each, at least 2, from one teacher.
        low: Lower end of the range, may be infinite.
        high: Upper end.
        confidence: Coverage of the interval, in (0, 1).
    """
    import numpy as np
    from scipy.special import chdtri, ndtr, stdtrit

    # Midpoints of equally likely variances of both means.
    points = (np.arange(200) + 0.5) / 200
    parts = [std**2 / n * chdtri(n - 1, points) / (n - 1) for std, n in zip(stds, seeds)]
    of_a, of_b = parts[0][:, None], parts[1][None]
    df = (of_a + of_b) ** 2 / (of_a**2 / (seeds[0] - 1) + of_b**2 / (seeds[1] - 1))
    half = stdtrit(df, (1 + confidence) / 2) * np.sqrt(of_a + of_b)
    error = math.sqrt(math.fsum(std**2 / n for std, n in zip(stds, seeds)))
    below = lambda end: ndtr((end - gap) / error)
    inside = np.maximum(0, below(high - half) - below(low + half))
    outside = below(low - half) + 1 - below(high + half)
    return float(np.mean(inside)), float(np.mean(outside))


def seeds_to_detect(gap: float, std: float, power: float = POWER, confidence: float = CONFIDENCE) -> int:
    """Least number of training seeds of each of two methods that show a gap with a probability.

    Args:
        gap: See :func:`detection`, as for ``std`` and ``confidence``; above 0.
        std: Above 0.
        power: The probability, in (0, 1).
        confidence: Coverage of the interval.
    """
    # The normal distribution's number is a lower bound, close for many seeds.
    normal = statistics.NormalDist()
    quantiles = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)
    least = max(2, math.floor(2 * (std / gap * quantiles) ** 2))
    return next(seeds for seeds in itertools.count(least) if detection(gap, std, seeds, confidence) >= power)


def mean_interval(values: Blocks, confidence: float = CONFIDENCE) -> Interval:
    """The mean of the blocks' means, with its interval.

    Args:
        values: Values of trainings; at least two in one of the blocks.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        NotMeasuredError: No value, one that is not finite, a single seed in every block, or seeds of which only some
            are common to the blocks.
    """
    return _with_blocks([(1, _Variances.of(values, "the mean"))], list(values), confidence)


def difference(a: Blocks, b: Blocks, confidence: float = CONFIDENCE) -> Interval:
    """The difference A − B: within each block, then averaged over the blocks, with Welch's t interval.

    With one block this is the plain Welch interval. If A and B have no block in common (they come from different
    teachers), each side is the mean of its blocks, and the difference includes the difference of the teachers.

    Args:
        a: Values of method A, at least two in one of its blocks.
        b: Values of method B.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        NotMeasuredError: No value, one that is not finite, a single seed in every block of a method, blocks of which
            only some are shared, or seeds of which only some are common to the blocks.
    """
    sides = [(1, _Variances.of(a, "A")), (-1, _Variances.of(b, "B"))]
    shared = [name for name in a if name in b]
    if shared and (unpaired := sorted({*a, *b} - set(shared))):
        raise NotMeasuredError(
            "", f"only one side of the difference has runs of {', '.join(unpaired)}", "compare equal teachers"
        )
    return _with_blocks(sides, shared, confidence)


def pooled_std(cells: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation within cells, pooled, and its degrees of freedom.

    Args:
        cells: Values; at least two in one of the cells. Cells with one value do not count.
    """
    several = [cell for cell in cells if len(cell) > 1]
    df = sum(len(cell) - 1 for cell in several)
    return math.sqrt(sum((len(cell) - 1) * statistics.variance(cell) for cell in several) / df), df


def survivors(p_values: Sequence[float]) -> list[bool]:
    """Which of several tests are significant if at most 5 % of the significant ones may be false discoveries.

    Source: Y. Benjamini and Y. Hochberg, Journal of the Royal Statistical Society B 57 (1995).
    """
    ordered_p = sorted(p_values)
    bound = max(
        (p for rank, p in enumerate(ordered_p, 1) if p <= (1 - CONFIDENCE) * rank / len(ordered_p)), default=-1.0
    )
    return [p <= bound for p in p_values]


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number, in their order: all of those below 5 % are right with a probability of 95 %.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def interval_of(value: float, parts: Sequence[tuple[float, float]], confidence: float = CONFIDENCE) -> Interval:
    """Student's t interval of a sum of independent parts, with the degrees of freedom of Welch and Satterthwaite.

    Args:
        value: The estimate.
        parts: Variance of each part and its degrees of freedom (infinite for a known variance).
        confidence: Coverage of the interval, in (0, 1).
    """
    variance = math.fsum(part for part, _ in parts)
    # Without any variance the degrees of freedom add up.
    below = math.fsum(part**2 / df for part, df in parts)
    freedom = variance**2 / below if below > 0 else math.fsum(df for _, df in parts)
    error, half = math.sqrt(variance), 0.0
    # Printed numbers are compared at the start of a workflow as well, in a Snakemake that may have no scipy.
    if variance or not freedom:
        from scipy.special import stdtrit

        half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return Interval(value, error, freedom, value - half, value + half, confidence)


def joint(parts: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Variances that are multiples of one estimate, as one part: it has the degrees of freedom of that estimate once.

    Args:
        parts: Variance and degrees of freedom, which are equal; may be empty.
    """
    return [(math.fsum(variance for variance, _ in parts), parts[0][1])] if parts else []


def design_of(blocks: Blocks) -> Design:
    """The design of trainings; see the module.

    Raises:
        NotMeasuredError: Some seeds are common to the blocks, and some are not.
    """
    if len(blocks) == 1:
        return "one teacher"
    seeds = [set(cell) for cell in blocks.values()]
    if all(cell == seeds[0] for cell in seeds):
        return "crossed"
    if len(set.union(*seeds)) == sum(map(len, seeds)):
        return "nested"
    raise NotMeasuredError(
        "", "some training seeds are common to the teachers and some are not", "give each training a seed of its own"
    )


@dataclass(frozen=True)
class _Variances:
    """Trainings of a method with the variances that their design gives.

    Attributes:
        blocks: Values by block and seed.
        design: Design of the trainings.
        mean: Variance of the mean of the blocks' means, and its degrees of freedom.
        block: Variance of one training within a block, and the degrees of freedom.
        apart: Variance of one training by which blocks differ, without the variance that they share.
    """

    blocks: Blocks
    design: Design
    mean: tuple[float, float]
    block: tuple[float, float]
    apart: tuple[float, float]

    @classmethod
    def of(cls, blocks: Blocks, side: str) -> _Variances:
        """The variances of checked values.

        Raises:
            NotMeasuredError: See :func:`difference`.
        """
        _check(blocks, side)
        design, cells = design_of(blocks), [list(cell.values()) for cell in blocks.values()]
        std, df = pooled_std(cells)
        if design != "crossed":
            mean = std**2 * math.fsum(1 / len(cell) for cell in cells) / len(cells) ** 2
            return cls(blocks, design, (mean, df), (std**2, df), (std**2, df))
        seeds = list(next(iter(blocks.values())))
        seed_means = [statistics.fmean(cell[seed] for cell in blocks.values()) for seed in seeds]
        free = len(seeds) - 1
        # Residuals of the two-way layout: without the teacher's mean and the seed's mean.
        residuals = [
            value - statistics.fmean(cell.values()) - seed_mean + statistics.fmean(seed_means)
            for cell in blocks.values()
            for seed_mean, value in zip(seed_means, (cell[seed] for seed in seeds))
        ]
        residual_df = free * (len(cells) - 1)
        residual = math.fsum(value**2 for value in residuals) / residual_df
        # Blocks that share their seeds vary together, so that pooling them gives no further degrees of freedom.
        of_mean = statistics.variance(seed_means) / len(seeds), free
        return cls(blocks, design, of_mean, (std**2, free), (residual, residual_df))


def _with_blocks(sides: Sequence[tuple[int, _Variances]], shared: Sequence[str], confidence: float) -> Interval:
    """Sum over independent sides of ``± mean of the blocks' means``."""
    means = [{name: statistics.fmean(cell.values()) for name, cell in side.blocks.items()} for _, side in sides]
    value = math.fsum(sign * statistics.fmean(mean.values()) for (sign, _), mean in zip(sides, means))
    interval = interval_of(value, [side.mean for _, side in sides], confidence)
    blocks, apart = {}, []
    for name in shared:
        value = math.fsum(sign * mean[name] for (sign, _), mean in zip(sides, means))
        counts = [len(side.blocks[name]) for _, side in sides]
        parts = [(side.block[0] / count, side.block[1]) for (_, side), count in zip(sides, counts)]
        blocks[name] = interval_of(value, parts, confidence)
        parts = [(side.apart[0] / count, side.apart[1]) for (_, side), count in zip(sides, counts)]
        apart.append(interval_of(value, parts))
    is_crossed = any(side.design == "crossed" for _, side in sides)
    df = apart[0].df if is_crossed and apart else interval.df
    designs = tuple(side.design for _, side in sides)
    return dataclasses.replace(interval, blocks=blocks, blocks_p=_equal_blocks(apart, df), designs=designs)


def _equal_blocks(blocks: Sequence[Interval], df: float) -> float | None:
    """P value of the F test that blocks are equal, each weighted by its own standard error."""
    if len(blocks) < 2:
        return None
    if not all(block.standard_error > 0 for block in blocks):
        return float(len({block.value for block in blocks}) == 1)
    from scipy.special import fdtrc

    weights = [block.standard_error**-2 for block in blocks]
    middle = math.fsum(w * block.value for w, block in zip(weights, blocks)) / math.fsum(weights)
    spread = math.fsum(w * (block.value - middle) ** 2 for w, block in zip(weights, blocks)) / (len(blocks) - 1)
    return float(fdtrc(len(blocks) - 1, min(df, 1e9), spread))


def _check(values: Blocks, side: str) -> None:
    if not any(values.values()):
        raise NotMeasuredError("", f"no training seed of {side}")
    if not all(math.isfinite(value) for cell in values.values() for value in cell.values()):
        raise NotMeasuredError("", f"a training seed of {side} has no finite value", "look at its training")
    if all(len(cell) < 2 for cell in values.values()):
        raise NotMeasuredError(
            "", f"one training seed of {side}{' from each teacher' * (len(values) > 1)}", "an interval needs two"
        )
