"""Components of variance of nested runs: evaluation trial ⊂ training seed ⊂ teacher.

Analysis of variance with expected mean squares for unbalanced nested groups (S. R. Searle, G. Casella and C. E.
McCulloch, Variance Components, 1992, chapter 3): ``value = μ + teacher + seed + trial``. Intervals of the components
are those of J. S. Williams (Biometrika 49, 1962), whose ends are chi-square and F quantiles; for balanced groups they
cover at least 1 − 2α and close to 1 − α.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.effects.contrast import CONFIDENCE, Blocks, difference
from sida.errors import UserError

#: Trials by training seed by teacher.
Nested = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Component:
    """One standard deviation.

    Attributes:
        std: Estimate in the unit of the values; 0 where the estimated variance is negative.
        variance: The estimated variance as it came out, which may be negative.
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
    """Three standard deviations; None where nothing can be said: one trial, one seed of each teacher, one teacher.

    Attributes:
        evaluation: Of one evaluation trial of one generator.
        training: Of training seeds from one teacher, without what evaluation adds.
        teacher: Of teachers of equal settings, without what training seeds add.
        counts: Trials, runs and teachers that were seen.
    """

    evaluation: Component | None
    training: Component | None
    teacher: Component | None
    counts: tuple[int, int, int]


@dataclass(frozen=True)
class _Square:
    """A mean square with its degrees of freedom, and how often it holds the components of seeds and of teachers."""

    value: float
    df: float
    seeds: float = 0.0
    teachers: float = 0.0


def components(groups: Sequence[Nested], confidence: float = CONFIDENCE) -> Components:
    """Components of variance, pooled over groups.

    Args:
        groups: Nested values of each method; what differs between methods is no part of any component. A teacher that
            several methods come from counts once in the degrees of freedom, since its error is theirs in common.
        confidence: Coverage of the intervals, in (0, 1).

    Raises:
        UserError: No value, or a run without a trial.
    """
    for nested in groups:
        for teacher, runs in nested.items():
            for run, trials in runs.items():
                if not trials:
                    raise UserError(f"run '{run}' of teacher '{teacher}' has no trial; measure it")
    groups = [nested for nested in groups if any(nested.values())]
    if not groups:
        raise UserError("no run of these; nothing is known about their scatter")
    trial, seed, between = _squares(groups)
    nothing = _Square(0.0, math.inf)
    evaluation = _component(trial, nothing, 1.0, confidence) if trial else None
    # A single trial of each run leaves the evaluation's part in the training's.
    training = _component(seed, trial or nothing, seed.seeds, confidence) if seed else None
    among = None
    if between and seed:
        share = between.seeds / seed.seeds
        among = _component(between, _mixed(seed, trial, share), between.teachers, confidence)
    cells = [trials for nested in groups for runs in nested.values() for trials in runs.values()]
    names = {name for nested in groups for name in nested}
    return Components(evaluation, training, among, (sum(map(len, cells)), len(cells), len(names)))


def of_difference(a: Blocks, b: Blocks, confidence: float = CONFIDENCE) -> Component:
    """The standard deviation over teachers of the difference A − B, without what training seeds add to it.

    It decides how far a difference holds for further teachers, which an interval within teachers does not say.

    Args:
        a: Values of training seeds of method A by teacher.
        b: Values of method B by the same teachers.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        UserError: Fewer than two teachers that both have.
    """
    effect = difference(a, b, confidence)
    if len(effect.blocks) < 2:
        raise UserError("one teacher says nothing about the scatter between teachers; train from at least two")
    teachers = len(effect.blocks)
    # The variance of the mean over blocks, times their number: what seeds alone add to each block's difference.
    noise = _Square(teachers * effect.standard_error**2, effect.df)
    return _component(_Square(statistics.variance(effect.blocks.values()), teachers - 1), noise, 1.0, confidence)


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
    """What a teachers' mean square would be without teachers: seeds and trials in its own proportion."""
    parts = [(share * seed.value, seed.df)]
    if trial:
        parts.append(((1 - share) * trial.value, trial.df))
    value = sum(part for part, _ in parts)
    below = sum(part**2 / df for part, df in parts)
    return _Square(max(value, 0.0), value**2 / below if below else seed.df)


def _component(square: _Square, noise: _Square, times: float, confidence: float) -> Component:
    """The variance that a mean square holds beyond its noise, ``(MS − noise) / times``, with Williams's interval."""
    from scipy.special import chdtri, fdtri

    variance = (square.value - noise.value) / times
    tail = (1 - confidence) / 2
    ends = []
    for upper in (tail, 1 - tail):
        # chdtri takes the upper tail, fdtri the lower one. A noise that is known exactly needs no F.
        chi = float(chdtri(square.df, upper))
        ratio = float(fdtri(square.df, noise.df, 1 - upper)) if math.isfinite(noise.df) else chi / square.df
        ends.append(math.sqrt(max(square.value - noise.value * ratio, 0.0) * square.df / (times * chi)))
    return Component(math.sqrt(max(variance, 0.0)), variance, square.df, *ends)
