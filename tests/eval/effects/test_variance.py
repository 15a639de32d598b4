"""Components of variance and power: by hand, by a textbook, and by simulation with equal and unequal groups."""

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.effects.contrast import difference, mean_interval
from eval.effects.variance import (
    Scatter,
    components,
    detectable,
    of_difference,
    power_of,
    seeds_needed,
    shared_trials,
    teachers_needed,
)
from tests.refused import refused

#: Two teachers, two seeds each, two trials each; squares can be summed in the head.
BY_HAND = {"t": {"0": [1.0, 3.0], "1": [5.0, 7.0]}, "u": {"0": [11.0, 13.0], "1": [15.0, 17.0]}}


def check_found_again(found, stds):
    """Components of many simulated studies: unbiased variances, and intervals that hold the true ones."""
    for name, std in stds.items():
        every = [getattr(one, name) for one in found]
        mean, error = statistics.fmean(c.variance for c in every), statistics.stdev(c.variance for c in every)
        assert abs(mean - std**2) < 4 * error / math.sqrt(len(every)), name
        assert statistics.fmean(c.low <= std <= c.high for c in every) > 0.91, name


def drawn(noise, stds, sizes):
    """Nested values with these standard deviations of teachers, seeds and trials; ``sizes[teacher]`` has trials."""
    teachers = [noise.gauss(0, stds[0]) for _ in sizes]
    runs = [[level + noise.gauss(0, stds[1]) for _ in trials] for level, trials in zip(teachers, sizes)]
    return {
        str(t): {
            str(s): [noise.gauss(level, stds[2]) for _ in range(trials)]
            for s, (level, trials) in enumerate(zip(runs[t], sizes[t]))
        }
        for t in range(len(sizes))
    }


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
    # Methods are groups whose distance is no scatter.
    far = {t: {s: [x + 1000 for x in trials] for s, trials in runs.items()} for t, runs in BY_HAND.items()}
    one, two = components([BY_HAND]), components([BY_HAND, far])
    assert two.training.variance == pytest.approx(one.training.variance)
    assert (two.training.df, two.evaluation.df) == (4, 8)
    # Both methods come from the same two teachers.
    assert two.teacher.df == 1
    # A negative variance is cut at zero and kept as it was.
    found = components([{"t": {"0": [0.0, 2.0], "1": [1.0, 3.0]}}])
    assert found.training.variance == pytest.approx(-0.5)  # (1 − 2) / 2
    assert (found.training.std, found.training.low) == (0.0, 0.0)
    assert found.training.high > 0
    assert found.teacher is None


@pytest.mark.parametrize("sizes", [[[5] * 3] * 3, [[2, 5, 9], [4, 4], [3, 8, 3, 2]]], ids=["equal", "unequal"])
def test_components_are_found_again_on_average(sizes):
    noise, stds = random.Random(1), {"teacher": 0.3, "training": 0.2, "evaluation": 0.1}
    check_found_again([components([drawn(noise, [*stds.values()], sizes)]) for _ in range(600)], stds)


def test_what_cannot_be_said_is_none_or_refused():
    single = components([{"t": {"0": [1.0], "1": [2.0]}, "u": {"0": [5.0], "1": [6.5]}}])
    assert single.evaluation is None
    assert single.training.variance == pytest.approx((0.5 + 1.125) / 2)
    assert components([{"t": {"0": [1.0, 2.0]}, "u": {"0": [5.0, 6.0]}}]).teacher is None
    for nothing in ([], [{"t": {}}]):
        refused("measure the runs first", components, nothing)
    refused("run '0' of teacher 't' has no trial", components, [{"t": {"0": []}}])
    # Parts of shared trials that cannot be said.
    alone = shared_trials([{"t": {"0": [1.0, 2.0, 4.0], "1": [2.0, 3.0, 4.5]}}])
    refused("two methods", alone.variances, 1, 3)
    refused("two methods", alone.against_one, mean_interval({"": [1.0, 2.0]}))
    refused("1 to 2 trials; measure equally many", shared_trials, [{"t": {"0": [1.0, 2.0], "1": [2.0]}}])
    refused("1 to 1 trials; .* at least two", shared_trials, [{"t": {"0": [1.0], "1": [2.0]}}])
    refused("measure the runs first", shared_trials, [])
    still = shared_trials([{"t": {str(s): [1.0, 2.0, 3.0] for s in range(2)}} for _ in range(2)])
    assert still.trials_needed(3, 0.05) is None  # no scatter over seeds


def test_scatter_of_a_difference_over_teachers():
    # Differences −1 and −3: variance 2; seeds of variance 0.02 in each of four cells of two add 0.02 to a difference.
    a = {"t": [0.9, 1.1], "u": [0.9, 1.1]}
    b = {"t": [1.9, 2.1], "u": [3.9, 4.1]}
    found = of_difference(a, b)
    assert (found.variance, found.df) == (pytest.approx(2 - 0.02), 1)
    refused("train from at least two", of_difference, {"t": [1.0, 2.0]}, {"t": [1.0, 2.0]})


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
    check_found_again([shared_trials(crossed(noise, sizes, **stds)) for _ in range(400)], stds)


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


ONE = Scatter(1.0, 1.0)


def test_a_medium_effect_needs_64_of_each():
    """Cohen (1988), table 2.4.1: d = 0.5, two-sided 5 %, power 0.80."""
    assert seeds_needed(0.5, ONE) == 64
    assert power_of(0.5, ONE, 64) == pytest.approx(0.801, abs=1e-3)
    assert power_of(0.0, ONE, 3) == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize(("teachers", "seeds"), [(1, 5), (2, 3)])
def test_power_is_the_share_of_decided_differences(teachers, seeds):
    noise, scatter, decided = random.Random(2), Scatter(1.0, 1.5), 0
    for _ in range(1500):
        a, b = (
            {str(t): [t + noise.gauss(mean, std) for _ in range(seeds)] for t in range(teachers)}
            for mean, std in ((0.0, 1.0), (2.0, 1.5))
        )
        effect = difference(a, b)
        decided += not effect.low <= 0 <= effect.high
    # The test estimates its degrees of freedom, which costs a little of the power.
    assert decided / 1500 == pytest.approx(power_of(2.0, scatter, seeds, teachers), abs=0.05)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 5), st.floats(0.1, 3), st.integers(1, 3))
def test_the_least_number_is_the_least(effect, std, teachers):
    scatter = Scatter(std, std)
    seeds = seeds_needed(effect, scatter, teachers)
    if seeds is not None:
        assert power_of(effect, scatter, seeds, teachers) >= 0.8
        assert seeds == 2 or power_of(effect, scatter, seeds - 1, teachers) < 0.8


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 10), st.floats(0.01, 10), st.integers(2, 20), st.integers(1, 3))
def test_the_detectable_difference_has_the_wanted_power(a, b, seeds, teachers):
    scatter = Scatter(a, b)
    assert power_of(detectable(scatter, seeds, teachers), scatter, seeds, teachers) == pytest.approx(0.8, abs=1e-3)


def test_many_or_no_seeds():
    assert seeds_needed(1e-6, ONE) is None
    assert seeds_needed(1000.0, ONE) == 2
    assert power_of(1e9, ONE, 3) == 1.0
    refused("1 training seeds have no interval", power_of, 1.0, ONE, 1)
    refused("not all 0", Scatter, 0.0, 0.0)


def test_teachers_are_needed_where_they_scatter():
    scatter = Scatter(0.1, 0.1, teacher=1.0)
    few, many = teachers_needed(1.0, scatter, 10), teachers_needed(1.0, scatter, 2)
    assert 8 <= few <= many <= 12  # a paired test of d = 1 needs ten
    refused("ask for the number of seeds", teachers_needed, 1.0, ONE, 3)
