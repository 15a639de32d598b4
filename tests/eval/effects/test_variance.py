"""Components of variance: by hand, and by simulation with equal and unequal groups."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from eval.effects.variance import components, of_difference
from sida.errors import UserError

#: Two teachers, two seeds each, two trials each; squares can be summed in the head.
BY_HAND = {"t": {"0": [1.0, 3.0], "1": [5.0, 7.0]}, "u": {"0": [11.0, 13.0], "1": [15.0, 17.0]}}


def drawn(noise, stds, sizes, groups=1):
    """Nested values with these standard deviations of teachers, seeds and trials; ``sizes[teacher]`` has trials."""
    teachers = [noise.gauss(0, stds[0]) for _ in sizes]
    return [
        {
            str(t): {
                str(s): [noise.gauss(seed, stds[2]) for _ in range(trials)]
                for s, trials in enumerate(sizes[t])
                for seed in [level + noise.gauss(0, stds[1])]
            }
            for t, level in enumerate(teachers)
        }
        for _ in range(groups)
    ]


def test_components_by_hand():
    found = components([BY_HAND])
    # Trials: each run ±1, 8 / 4 = 2. Seeds: means 2, 6 | 12, 16, a teacher 2 · (4 + 4) = 16, 32 / 2 = 16 = 2 + 2 σs².
    # Teachers: means 4 and 14, 4 · (25 + 25) / 1 = 200 = 16 + 4 σt².
    assert found.evaluation.variance == pytest.approx(2)
    assert found.training.variance == pytest.approx(7)
    assert found.teacher.variance == pytest.approx(46)
    assert (found.evaluation.df, found.training.df, found.teacher.df) == (4, 2, 1)
    assert found.counts == (8, 4, 2)
    # Chi-square with four degrees of freedom: 0.4844 and 11.1433.
    assert (found.evaluation.low, found.evaluation.high) == pytest.approx(
        (math.sqrt(8 / 11.1433), math.sqrt(8 / 0.4844)), rel=1e-3
    )
    assert found.training.low < math.sqrt(7) < found.training.high


def test_a_negative_variance_is_cut_at_zero_and_kept_as_it_was():
    found = components([{"t": {"0": [0.0, 2.0], "1": [1.0, 3.0]}}])
    assert found.training.variance == pytest.approx(-0.5)  # (1 − 2) / 2
    assert (found.training.std, found.training.low) == (0.0, 0.0)
    assert found.training.high > 0
    assert found.teacher is None


def test_methods_are_groups_whose_distance_is_no_scatter():
    far = {t: {s: [x + 1000 for x in trials] for s, trials in runs.items()} for t, runs in BY_HAND.items()}
    one, two = components([BY_HAND]), components([BY_HAND, far])
    assert two.training.variance == pytest.approx(one.training.variance)
    assert (two.training.df, two.evaluation.df) == (4, 8)
    # Both methods come from the same two teachers.
    assert two.teacher.df == 1


@pytest.mark.parametrize("sizes", [[[5] * 3] * 3, [[2, 5, 9], [4, 4], [3, 8, 3, 2]]], ids=["equal", "unequal"])
def test_components_are_found_again_on_average(sizes):
    noise, stds = random.Random(1), (0.3, 0.2, 0.1)
    found = [components(drawn(noise, stds, sizes)) for _ in range(600)]
    for std, name in zip(stds, ("teacher", "training", "evaluation")):
        every = [getattr(one, name) for one in found]
        mean, error = statistics.fmean(c.variance for c in every), statistics.stdev(c.variance for c in every)
        assert abs(mean - std**2) < 4 * error / math.sqrt(len(every)), name
        assert statistics.fmean(c.low <= std <= c.high for c in every) > 0.91, name


def test_what_cannot_be_said_is_none():
    single = components([{"t": {"0": [1.0], "1": [2.0]}, "u": {"0": [5.0], "1": [6.5]}}])
    assert single.evaluation is None
    assert single.training.variance == pytest.approx((0.5 + 1.125) / 2)
    assert components([{"t": {"0": [1.0, 2.0]}, "u": {"0": [5.0, 6.0]}}]).teacher is None
    for nothing in ([], [{"t": {}}]):
        with pytest.raises(UserError, match="measure the runs first"):
            components(nothing)
    with pytest.raises(UserError, match="run '0' of teacher 't' has no trial"):
        components([{"t": {"0": []}}])


def test_scatter_of_a_difference_over_teachers():
    # Differences −1 and −3: variance 2; seeds of variance 0.02 in each of four cells of two add 0.02 to a difference.
    a = {"t": [0.9, 1.1], "u": [0.9, 1.1]}
    b = {"t": [1.9, 2.1], "u": [3.9, 4.1]}
    found = of_difference(a, b)
    assert (found.variance, found.df) == (pytest.approx(2 - 0.02), 1)
    with pytest.raises(UserError, match="train from at least two"):
        of_difference({"t": [1.0, 2.0]}, {"t": [1.0, 2.0]})
