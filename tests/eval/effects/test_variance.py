"""Components of variance: by hand, and by simulation with equal and unequal groups."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from eval.effects.contrast import mean_interval
from eval.effects.variance import components, of_difference, shared_trials
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


def crossed(noise, sizes, trials=5, common=0.3, method=0.2, rest=0.1, training=0.15):
    """Methods with ``sizes[method]`` seeds each, whose trial r has equal images for all."""
    shifts = [noise.gauss(0, common) for _ in range(trials)]
    groups = []
    for number, seeds in enumerate(sizes):
        own = [noise.gauss(10 * number, method) + shift for shift in shifts]
        levels = [noise.gauss(0, training) for _ in range(seeds)]
        groups.append({"t": {str(s): [x + noise.gauss(level, rest) for x in own] for s, level in enumerate(levels)}})
    return groups


@pytest.mark.parametrize("sizes", [[3] * 6, [2, 5, 3, 4, 3]], ids=["equal", "unequal"])
def test_parts_of_shared_trials_are_found_again_on_average(sizes):
    noise, stds = random.Random(2), {"common": 0.3, "method": 0.2, "rest": 0.1, "training": 0.15}
    found = [shared_trials(crossed(noise, sizes, **stds)) for _ in range(400)]
    for name, std in stds.items():
        every = [getattr(one, name) for one in found]
        mean, error = statistics.fmean(c.variance for c in every), statistics.stdev(c.variance for c in every)
        assert abs(mean - std**2) < 4 * error / math.sqrt(len(every)), name
        assert statistics.fmean(c.low <= std <= c.high for c in every) > 0.91, name


def test_images_that_all_generators_share_are_no_noise_of_a_difference():
    groups = crossed(random.Random(0), [3, 3, 3], method=0.0, rest=0.0)
    found = shared_trials(groups)
    assert found.common.std > 0.1
    assert found.variances(1, 3) == (pytest.approx(found.training.variance / 3), pytest.approx(0, abs=1e-20))
    # Taken as independent, equal images hide the scatter of training seeds.
    assert components(groups).training.variance < found.training.variance


def test_the_part_of_trials_falls_as_one_over_their_number():
    found = shared_trials(crossed(random.Random(1), [3] * 6))
    for trials in (2, 3, 5, 10):
        assert found.variances(trials, 3)[1] == pytest.approx(found.variances(1, 3)[1] / trials)
        assert found.variances(trials, 3)[0] == found.variances(1, 3)[0]
    # More seeds do not reduce the part that they share.
    assert found.variances(5, 10**9)[1] == pytest.approx(found.method.variance / 5)
    needed = found.trials_needed(3, 0.05)

    def longer(trials):
        seeds, noise = found.variances(trials, 3)
        return math.sqrt((seeds + noise) / seeds) - 1

    assert longer(needed) < 0.05 <= longer(needed - 1)


def test_more_runs_do_not_reduce_the_shift_of_the_images():
    """Trials and evaluations of equal expectation: the interval that takes runs as independent misses 0 mostly."""
    noise, naive, whole = random.Random(3), 0, 0
    for _ in range(200):
        groups, shift = crossed(noise, [3] * 10), noise.gauss(0, 0.3)
        runs = [(i * 10, trials) for i, group in enumerate(groups) for trials in group["t"].values()]
        own = [noise.gauss(0, 0.2) for _ in groups]
        above = [
            statistics.fmean(trials) - level - shift - own[level // 10] - noise.gauss(0, 0.18) for level, trials in runs
        ]
        mean = mean_interval({"": above})
        wider = shared_trials(groups).against_one(mean)
        naive += not mean.low <= 0 <= mean.high
        whole += not wider.low <= 0 <= wider.high
    assert naive > 100
    assert whole < 20


def test_parts_of_shared_trials_that_cannot_be_said():
    alone = shared_trials([{"t": {"0": [1.0, 2.0, 4.0], "1": [2.0, 3.0, 4.5]}}])
    with pytest.raises(UserError, match="two methods"):
        alone.variances(1, 3)
    with pytest.raises(UserError, match="two methods"):
        alone.against_one(mean_interval({"": [1.0, 2.0]}))
    with pytest.raises(UserError, match="1 to 2 trials; measure equally many"):
        shared_trials([{"t": {"0": [1.0, 2.0], "1": [2.0]}}])
    with pytest.raises(UserError, match="1 to 1 trials; measure equally many of each, at least two"):
        shared_trials([{"t": {"0": [1.0], "1": [2.0]}}])
    with pytest.raises(UserError, match="measure the runs first"):
        shared_trials([])
    still = shared_trials([{"t": {str(s): [1.0, 2.0, 3.0] for s in range(2)}} for _ in range(2)])
    assert still.trials_needed(3, 0.05) is None  # no scatter over seeds
