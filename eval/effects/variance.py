"""Components of variance of nested runs: evaluation trial ⊂ training seed ⊂ teacher.

Analysis of variance with expected mean squares for unbalanced nested groups (S. R. Searle, G. Casella and C. E.
McCulloch, Variance Components, 1992, chapter 3): ``value = μ + teacher + seed + trial``. Intervals of the components
are those of J. S. Williams (Biometrika 49, 1962), whose ends are chi-square and F quantiles; for balanced groups they
cover at least 1 − 2α and close to 1 − α. For trials with equal latents and classes for all generators see
:func:`shared_trials`.

Power of a comparison: the number of training seeds for a difference, and the smallest detectable difference.

The test is that of :func:`eval.effects.contrast.difference`: a two-sided Welch test for two methods with equally many
seeds from each of several teachers; its power follows from the non-central t distribution. The standard deviations are
taken as known. Estimates from few seeds are uncertain, so the numbers give an order of magnitude.

Source: J. Cohen, Statistical Power Analysis for the Behavioral Sciences, 2nd edition (1988), chapter 2.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.effects.contrast import CONFIDENCE, Blocks, Interval, difference, t_quantile
from sida.errors import UserError

if TYPE_CHECKING:
    import numpy as np


#: Trials by training seed by teacher.
Nested = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Component:
    """A component of variance as a standard deviation with its interval.

    Attributes:
        std: Estimate in the unit of the values; 0 where the estimated variance is negative.
        variance: The estimated variance, which may be negative.
        df: Degrees of freedom of its mean square.
        low: Lower end of the interval of the standard deviation.
        high: Upper end.
    """

    std: float
    variance: float
    df: float
    low: float
    high: float


@dataclass(frozen=True)
class Components:
    """Standard deviations over trials, training seeds and teachers; None for a component that the data do not show.

    Attributes:
        evaluation: Over evaluation trials of one generator.
        training: Over training seeds from one teacher, without the part of evaluation.
        teacher: Over teachers of equal settings, without the part of training seeds.
    """

    evaluation: Component | None
    training: Component | None
    teacher: Component | None


@dataclass(frozen=True)
class SharedTrials:
    """Standard deviations where trial r has equal latents and classes for all generators; None where not shown.

    Attributes:
        common: Deviation of a trial that all generators share; it cancels in differences.
        method: Further deviation that the training seeds of one method from one teacher share, so that more seeds do
            not reduce it.
        rest: Deviation of a trial of one generator.
        training: Over training seeds from one teacher, without the part of trials.
        teacher: Over teachers of equal settings; it includes ``method`` divided by the number of trials.
        trials: Trials of each run.
    """

    common: Component | None
    method: Component | None
    rest: Component | None
    training: Component | None
    teacher: Component | None
    trials: int

    def variances(self, trials: int, seeds: int) -> tuple[float, float]:
        """Variance of a method's mean in a difference of methods: the part of training seeds, and that of trials.

        Raises:
            UserError: A component is not known.
        """
        if self.method is None or self.rest is None or self.training is None:
            raise UserError(
                "", "the part of trials needs two methods with two training seeds each, and two trials of each"
            )
        return self.training.std**2 / seeds, (self.method.std**2 + self.rest.std**2 / seeds) / trials

    def against_one(self, mean: Interval) -> Interval:
        """The mean over runs of trials minus one evaluation of other images, with the deviation of both sets of images.

        The runs share both sets, so more runs do not reduce that part; its degrees of freedom are taken for the whole.

        Raises:
            UserError: The deviation is not known.
        """
        if self.common is None:
            raise UserError("", "the deviation that generators share needs two methods and three trials of each run")
        error = math.hypot(mean.standard_error, self.common.std * math.sqrt(1 + 1 / self.trials))
        half = t_quantile(mean.confidence, self.common.df) * error
        return Interval(mean.value, error, self.common.df, mean.value - half, mean.value + half, mean.confidence)

    def trials_needed(self, seeds: int, growth: float) -> int | None:
        """Trials that leave a standard error less than ``growth`` above that of endless ones; None without scatter."""
        training, noise = self.variances(1, seeds)
        return math.floor(noise / (training * ((1 + growth) ** 2 - 1))) + 1 if training else None


@dataclass(frozen=True)
class _Square:
    """A mean square, its degrees of freedom, and its coefficients of the components of seeds and of teachers."""

    value: float
    df: float
    seeds: float = 0.0
    teachers: float = 0.0


def components(groups: Sequence[Nested]) -> Components:
    """Components of variance, pooled over groups.

    Args:
        groups: Nested values of each method; differences between methods are part of no component. A teacher of several
            methods counts once in the degrees of freedom, since these methods share its error.

    Raises:
        UserError: No value, or a run without a trial.
    """
    for nested in groups:
        for teacher, runs in nested.items():
            for run, trials in runs.items():
                if not trials:
                    raise UserError("", f"run '{run}' of teacher '{teacher}' has no trial", "measure it")
    groups = [nested for nested in groups if any(nested.values())]
    if not groups:
        raise UserError("", "no measured run, so the scatter is unknown", "measure the runs first")
    trial, seed, between = _squares(groups)
    nothing = _Square(0.0, math.inf)
    evaluation = _component(trial, nothing, 1.0) if trial else None
    # With one trial of each run the component of training includes that of evaluation.
    training = _component(seed, trial or nothing, seed.seeds) if seed else None
    among = None
    if between and seed:
        share = between.seeds / seed.seeds
        among = _component(between, _mixed(seed, trial, share), between.teachers)
    return Components(evaluation, training, among)


def shared_trials(groups: Sequence[Nested]) -> SharedTrials:
    """Components of variance where trial r of every run has equal latents and classes, pooled over groups.

    Contrasts between the trials of a run (Helmert's, of unit length) are free of its mean: contrast ⊃ method ⊃ seed.

    Args:
        groups: Nested values of each method; trials in equal order.

    Raises:
        UserError: No value, a single trial, or runs with different numbers of trials.
    """
    cells = {f"{i} {name}": [*runs.values()] for i, nested in enumerate(groups) for name, runs in nested.items()}
    counts = {len(trials) for runs in cells.values() for trials in runs}
    if len(counts) > 1 or counts == {1}:
        raise UserError(
            "", f"runs have {min(counts)} to {max(counts)} trials", "measure equally many of each, at least two"
        )
    averaged = [{t: {r: [statistics.fmean(v)] for r, v in runs.items() if v} for t, runs in g.items()} for g in groups]
    seeds, trials = components(averaged), counts.pop()
    contrasts: dict[str, dict[str, list[float]]] = {str(k): {} for k in range(1, trials)}
    for k, (cell, runs) in itertools.product(range(1, trials), cells.items()):
        contrasts[str(k)][cell] = [math.sqrt(k / (k + 1)) * (statistics.fmean(run[:k]) - run[k]) for run in runs]
    parts = components([contrasts])
    training, rest = seeds.training, parts.evaluation
    if training and rest:
        noise = _Square(rest.variance / trials, rest.df)
        training = _component(_Square(training.variance, training.df), noise, 1.0)
    return SharedTrials(parts.teacher, parts.training, rest, training, seeds.teacher, trials)


def of_difference(a: Blocks, b: Blocks) -> Component:
    """Standard deviation of the difference A − B over teachers, without the part of training seeds.

    It shows how far a difference holds for other teachers; an interval within teachers does not.

    Args:
        a: Values of training seeds of method A by teacher.
        b: Values of method B by the same teachers.

    Raises:
        UserError: A and B have fewer than two teachers in common.
    """
    effect = difference(a, b)
    if len(effect.blocks) < 2:
        raise UserError("", "one teacher cannot show the scatter over teachers", "train from at least two")
    teachers = len(effect.blocks)
    # Variance of one block's difference due to seeds: that of the mean over blocks, times their number.
    noise = _Square(teachers * effect.standard_error**2, effect.df)
    between = statistics.variance(block.value for block in effect.blocks.values())
    return _component(_Square(between, teachers - 1), noise, 1.0)


def _squares(groups: Sequence[Nested]) -> tuple[_Square | None, _Square | None, _Square | None]:
    """Mean squares of trials, seeds and teachers, each None without degrees of freedom."""
    sums, dfs = [0.0, 0.0, 0.0], [0, 0, 0]
    seeds_in_seeds = seeds_in_teachers = teachers_in_teachers = 0.0
    for nested in groups:
        sizes = {name: [len(trials) for trials in runs.values()] for name, runs in nested.items() if runs}
        total = sum(map(sum, sizes.values()))
        grand = math.fsum(math.fsum(trials) for runs in nested.values() for trials in runs.values()) / total
        for name, counts in sizes.items():
            runs = list(nested[name].values())
            mean = math.fsum(map(math.fsum, runs)) / sum(counts)
            sums[0] += math.fsum((value - statistics.fmean(run)) ** 2 for run in runs for value in run)
            sums[1] += math.fsum(len(run) * (statistics.fmean(run) - mean) ** 2 for run in runs)
            sums[2] += sum(counts) * (mean - grand) ** 2
        squares = {name: sum(n * n for n in counts) for name, counts in sizes.items()}
        within = sum(squares[name] / sum(counts) for name, counts in sizes.items())
        dfs = [
            dfs[0] + total - sum(map(len, sizes.values())),
            dfs[1] + sum(map(len, sizes.values())) - len(sizes),
            dfs[2] + len(sizes) - 1,
        ]
        seeds_in_seeds += total - within
        seeds_in_teachers += within - sum(squares.values()) / total
        teachers_in_teachers += total - sum(sum(counts) ** 2 for counts in sizes.values()) / total
    distinct = len({name for nested in groups for name in nested}) - 1
    trial = _Square(sums[0] / dfs[0], dfs[0]) if dfs[0] else None
    seed = _Square(sums[1] / dfs[1], dfs[1], seeds_in_seeds / dfs[1]) if dfs[1] else None
    teacher = None
    if dfs[2]:
        held = (seeds_in_teachers / dfs[2], teachers_in_teachers / dfs[2])
        teacher = _Square(sums[2] / dfs[2], min(dfs[2], distinct) or dfs[2], *held)
    return trial, seed, teacher


def _mixed(seed: _Square, trial: _Square | None, share: float) -> _Square:
    """Expected mean square of teachers without scatter over teachers: a mixture of seeds and trials."""
    parts = [(share * seed.value, seed.df)]
    if trial:
        parts.append(((1 - share) * trial.value, trial.df))
    value = sum(part for part, _ in parts)
    below = sum(part**2 / df for part, df in parts)
    return _Square(max(value, 0.0), value**2 / below if below else seed.df)


def _component(square: _Square, noise: _Square, times: float) -> Component:
    """Component of a mean square beyond its noise, ``(MS − noise) / times``, with Williams's interval."""
    from scipy.special import chdtri, fdtri

    variance = (square.value - noise.value) / times
    tail = (1 - CONFIDENCE) / 2
    ends = []
    for upper in (tail, 1 - tail):
        # chdtri takes the upper tail, fdtri the lower one. If the noise is known (df = ∞), the F quantile is χ²/df.
        chi = float(chdtri(square.df, upper))
        ratio = float(fdtri(square.df, noise.df, 1 - upper)) if math.isfinite(noise.df) else chi / square.df
        ends.append(math.sqrt(max(square.value - noise.value * ratio, 0.0) * square.df / (times * chi)))
    return Component(math.sqrt(max(variance, 0.0)), variance, square.df, *ends)


POWER = 0.8
#: Largest number of seeds or teachers that is considered.
MOST = 1000
#: Number of quantiles over which the distribution of the estimated standard error is summed; power is exact to 1e-4.
_POINTS = 2000


@dataclass(frozen=True)
class Scatter:
    """Standard deviations of two methods and of teachers.

    Attributes:
        a: Standard deviation of method A over training seeds within a teacher.
        b: Standard deviation of method B over training seeds within a teacher.
        teacher: Standard deviation of the difference over teachers; 0 limits statements to the given teachers.
    """

    a: float
    b: float
    teacher: float = 0.0

    def __post_init__(self) -> None:
        if min(self.a, self.b, self.teacher) < 0 or not self.a + self.b + self.teacher > 0:
            raise UserError("", f"standard deviations must be at least 0 and not all 0, got {self.a}, {self.b}")


def power_of(effect: float, scatter: Scatter, seeds: int, teachers: int = 1) -> float:
    """Probability that the interval of the difference excludes 0, on either side.

    Args:
        effect: True difference, in the unit of the standard deviations.
        scatter: Standard deviations.
        seeds: Training seeds of each method from each teacher, at least 2; at least 1 with scatter over teachers.
        teachers: Teachers, at least 1; at least 2 with scatter over teachers, since the teachers are then the sample.
    """
    import numpy as np
    from scipy.special import ndtr

    error, df = _error(scatter, seeds, teachers)
    limit, shift = t_quantile(CONFIDENCE, df), abs(effect) / error
    # The definition of the non-central t: scipy.stats.nct jumps at few degrees of freedom and large shifts.
    estimated = _estimated_errors(df)
    return float(np.mean(ndtr(shift - limit * estimated) + ndtr(-shift - limit * estimated)))


@functools.lru_cache(maxsize=64)
def _estimated_errors(df: float) -> np.ndarray:
    """Quantiles of the estimated standard error in units of the true one."""
    import numpy as np
    from scipy.special import chdtri

    return np.sqrt(chdtri(df, (np.arange(_POINTS) + 0.5) / _POINTS) / df)


def seeds_needed(effect: float, scatter: Scatter, teachers: int = 1) -> int | None:
    """Least number of training seeds of each method from each teacher for power 80 %; None for more than :data:`MOST`.

    The result is about the given teachers: scatter over teachers does not count, since more seeds cannot reduce it.
    """
    within = Scatter(scatter.a, scatter.b)
    return _least(lambda seeds: power_of(effect, within, seeds, teachers))


def teachers_needed(effect: float, scatter: Scatter, seeds: int) -> int | None:
    """Least number of teachers with ``seeds`` seeds each for a statement about teachers in general.

    Raises:
        UserError: The scatter over teachers is 0.
    """
    if not scatter.teacher:
        raise UserError("", "the standard deviation over teachers is 0", "ask for the number of seeds instead")
    return _least(lambda teachers: power_of(effect, scatter, seeds, teachers))


def detectable(scatter: Scatter, seeds: int, teachers: int = 1) -> float:
    """Smallest true difference that ``seeds`` seeds show with power 80 %."""
    from scipy.optimize import brentq

    error, df = _error(scatter, seeds, teachers)
    # An upper end for the search: the quantile is at most 12.7 (one degree of freedom).
    most = (t_quantile(CONFIDENCE, df) + 10) * error * 4
    return float(brentq(lambda effect: power_of(effect, scatter, seeds, teachers) - POWER, 0.0, most))


def _error(scatter: Scatter, seeds: int, teachers: int) -> tuple[float, float]:
    """Standard error of the mean difference, and its degrees of freedom."""
    a, b = scatter.a**2 / seeds, scatter.b**2 / seeds
    if scatter.teacher:
        if teachers < 2:
            raise UserError("", "one teacher cannot show the scatter over teachers", "use at least 2")
        return math.sqrt((scatter.teacher**2 + a + b) / teachers), teachers - 1.0
    if seeds < 2:
        raise UserError("", f"{seeds} training seeds have no interval", "use at least 2")
    return math.sqrt((a + b) / teachers), teachers * (seeds - 1) * (a + b) ** 2 / (a**2 + b**2)


def _least(power_with: Callable[[int], float]) -> int | None:
    """Least number, from 2 on, that has power 80 %; None above :data:`MOST`. Power rises with the number."""
    if power_with(MOST) < POWER:
        return None
    low, high = 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_with(middle) >= POWER else (middle, high)
    return high
