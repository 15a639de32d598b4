"""Differences over training seeds: by hand, by scipy and by simulation."""

import itertools
import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from sida.eval.contrasts import chances, detection, holm, seeds_to_detect, survivors
from sida.eval.contrasts import difference as seeded_difference
from sida.eval.contrasts import mean_interval as seeded_mean
from tests.refused import refused
from tests.slow import quick_but


def nested(blocks):
    """Values by block, each with a seed of its own."""
    seeds = itertools.count()
    return {name: {next(seeds): value for value in cell} for name, cell in blocks.items()}


def crossed(blocks):
    """Values by block, with the same seeds in each."""
    return {name: dict(enumerate(cell)) for name, cell in blocks.items()}


def difference(a, b, design=nested):
    return seeded_difference(design(a), design(b))


def mean_interval(values, design=nested):
    return seeded_mean(design(values))


values = st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=2, max_size=6)


def test_two_teachers_are_compared_within_each_and_averaged():
    """Two teachers two units apart: the distance between them is no scatter of the difference."""
    a = {"t": [1.0, 1.2, 0.8], "u": [3.0, 3.2, 2.8]}
    b = {"t": [1.5, 1.7, 1.3], "u": [3.7, 3.9, 3.5]}
    effect = difference(a, b)
    assert {name: one.value for name, one in effect.blocks.items()} == pytest.approx({"t": -0.5, "u": -0.7})
    assert effect.value == pytest.approx(-0.6)
    # By hand: variance 0.04 in each of four cells of three seeds, each with weight 1/2; eight degrees of freedom.
    assert effect.standard_error == pytest.approx(math.sqrt(4 * 0.25 * 0.04 / 3))
    assert effect.df == pytest.approx(8)
    assert effect.high == pytest.approx(-0.6 + 2.306 * effect.standard_error, abs=1e-4)
    # Mixing the teachers would decide nothing.
    mixed = difference({"": [*a["t"], *a["u"]]}, {"": [*b["t"], *b["u"]]})
    assert mixed.low < 0 < mixed.high


@given(values, values)
def test_a_difference_is_antisymmetric_and_that_of_welch(a, b):
    one, other = difference({"": a}, {"": b}), difference({"": b}, {"": a})
    assert one.value == pytest.approx(-other.value, abs=1e-9)
    assert one.low == pytest.approx(-other.high, abs=1e-6)
    assert one.low <= one.value <= one.high
    if min(statistics.variance(a), statistics.variance(b)) > 1e-3:
        plain = stats.ttest_ind(a, b, equal_var=False)
        assert (one.low, one.high) == pytest.approx(tuple(plain.confidence_interval(0.95)))
        assert one.p_value() == pytest.approx(plain.pvalue, abs=1e-9)


@given(st.lists(st.floats(0, 1), max_size=9))
def test_corrected_p_values_are_those_of_scipy(several):
    adjusted = stats.false_discovery_control(several) if several else []
    assume(all(abs(p - 0.05) > 1e-9 for p in adjusted))
    assert survivors(several) == [p < 0.05 for p in adjusted]


@given(st.lists(st.floats(0, 1), max_size=5))
def test_holms_p_values_are_those_of_a_closed_test(several):
    """A p value is the largest of Bonferroni's over all sets that have it."""
    places = range(len(several))
    sets = [group for size in places for group in itertools.combinations(places, size + 1)]
    bonferroni = {group: min(1, len(group) * min(several[one] for one in group)) for group in sets}
    assert holm(several) == pytest.approx([max(p for group, p in bonferroni.items() if one in group) for one in places])


#: Teachers, share of the scatter of seeds that is common to the teachers, and whether they have the same seeds.
DESIGNS = {
    "one teacher": ("t", 0.0, nested), "nested": ("tuv", 0.0, nested),
    **{f"crossed {share}": ("tuv", share, crossed) for share in (0.0, 0.5, 1.0)},
}  # fmt: skip


@pytest.mark.parametrize(("seeds", "most"), [(3, 0.97), (2, 0.985)])
@pytest.mark.parametrize("name", quick_but({"crossed 0.0", "crossed 1.0"}, DESIGNS))
def test_intervals_cover_what_they_say_in_each_design(name, seeds, most):
    teachers, share, design = DESIGNS[name]
    noise, covered = random.Random(1), 0
    for _ in range(1200):

        def trainings(mean, std):
            common = [noise.gauss(0, std * math.sqrt(share)) for _ in range(seeds)]
            own = std * math.sqrt(1 - share)
            return {t: [mean + 3.0 * n + one + noise.gauss(0, own) for one in common] for n, t in enumerate(teachers)}

        effect = difference(trainings(1.0, 0.1), trainings(1.3, 0.3), design)
        covered += effect.low <= -0.3 <= effect.high
    assert effect.design == name.partition(" 0")[0].partition(" 1")[0]
    assert 0.93 <= covered / 1200 <= most


def test_crossed_trainings_that_count_as_nested_would_cover_too_little():
    noise, covered = random.Random(2), 0
    for _ in range(600):
        sides = []
        for mean in (1.0, 1.3):
            common = [mean + noise.gauss(0, 0.2) for _ in range(2)]
            sides.append(dict.fromkeys("tuv", common))
        effect = difference(*sides)
        covered += effect.low <= -0.3 <= effect.high
    assert covered / 600 < 0.8


def test_crossed_trainings_by_hand():
    """Seeds that move all teachers alike: two values, not six."""
    a = {"t": [1.0, 1.2], "u": [2.0, 2.2], "v": [3.0, 3.2]}
    b = {"t": [1.5, 1.5], "u": [2.5, 2.5], "v": [3.5, 3.5]}
    effect = difference(a, b, crossed)
    assert effect.value == pytest.approx(-0.4)
    # The means over teachers are 2.0 and 2.2, so their standard deviation is 0.2/√2, at one degree of freedom.
    assert (effect.standard_error, effect.df) == pytest.approx((0.1, 1))
    assert effect.high == pytest.approx(-0.4 + 12.706 * 0.1, abs=1e-3)
    assert effect.blocks["t"].high == pytest.approx(effect.high)
    # The teachers differ in nothing but the rounding of their means.
    a["v"] = [4.0, 4.21]
    assert difference(a, b, crossed).blocks_differ
    assert effect.moved(-2.0, 1.0).design == "crossed"
    assert mean_interval(a, crossed).design == "crossed"
    assert seeded_difference(crossed(a), nested(b)).design == "crossed against nested"


def test_seeds_of_which_only_some_are_common_are_refused():
    some = {"t": {1: 1.0, 2: 2.0}, "u": {2: 1.0, 3: 2.0}}
    refused("some training seeds are common .* a seed of its own", seeded_mean, some)
    refused("some training seeds", seeded_difference, nested({"t": [1.0, 2.0], "u": [3.0, 4.0]}), some)


def test_means_and_differences_by_hand():
    found = mean_interval({"t": [1.0, 3.0], "u": [5.0, 7.0]})
    assert (found.value, found.standard_error, found.df) == pytest.approx((4.0, math.sqrt(2 * 0.25 * 2 / 2), 2.0))
    # A teacher with one seed takes the scatter of the others.
    effect = difference({"t": [1.0, 3.0], "u": [5.0]}, {"t": [0.0, 0.0], "u": [0.0, 0.0]})
    assert effect.value == pytest.approx(3.5)
    assert effect.standard_error == pytest.approx(math.sqrt(2.0 * (1 / 2 + 1) / 4))
    assert effect.df == pytest.approx(1)
    # Values without any scatter have an interval of no length.
    effect = difference({"": [1.0, 1.0]}, {"": [2.0, 2.0, 2.0]})
    assert (effect.low, effect.high) == (-1.0, -1.0)
    # Methods of different teachers are compared as they are.
    effect = difference({"t": [1.0, 1.1]}, {"u": [2.0, 2.2]})
    assert effect.value == pytest.approx(-1.05)
    assert effect.blocks == {}


def test_what_cannot_be_compared_is_refused():
    two = [1.0, 2.0]
    refused("one training seed of A; an interval needs two", difference, {"t": [1.0]}, {"t": two})
    refused("no finite value", difference, {"t": two}, {"t": [math.inf, 1.0]})
    refused("one training seed of A from each", difference, {"t": [1.0], "u": [2.0]}, {"t": two, "u": [1.0]})
    refused("no training seed of B", difference, {"t": two}, {})
    refused("only one side .* runs of u", difference, {"t": two, "u": two}, {"t": two})


def test_blocks_are_equal_by_the_f_test_of_the_interaction():
    """Against the two-way analysis of variance, whose cells have equal numbers of seeds."""
    a = {"t": [1.0, 1.2, 0.8], "u": [3.0, 3.3, 2.9]}
    b = {"t": [1.5, 1.7, 1.2], "u": [4.4, 4.6, 4.2]}
    cells = [a["t"], a["u"], b["t"], b["u"]]
    means = [statistics.fmean(cell) for cell in cells]
    interaction = 3 * (means[0] - means[1] - means[2] + means[3]) ** 2 / 4
    within = statistics.fmean(statistics.variance(cell) for cell in cells)
    found = difference(a, b)
    assert found.blocks_p == pytest.approx(stats.f.sf(interaction / within, 1, found.df))
    assert found.blocks_differ
    assert difference({"t": [1.0, 2.0]}, {"t": [2.0, 3.0]}).blocks_p is None


def test_crossed_blocks_are_equal_by_the_f_test_of_the_two_way_layout():
    """Without repetition: three teachers by four seeds, whose residuals have (3 − 1)(4 − 1) degrees of freedom."""
    cells = np.array([[1.0, 1.3, 0.8, 1.1], [1.4, 1.6, 1.1, 1.7], [1.2, 1.3, 1.2, 1.5]])
    of_teachers, of_seeds, all_mean = cells.mean(1, keepdims=True), cells.mean(0, keepdims=True), cells.mean()
    residual = ((cells - of_teachers - of_seeds + all_mean) ** 2).sum() / 6
    between = 4 * ((of_teachers - all_mean) ** 2).sum() / 2
    found = mean_interval(dict(zip("tuv", cells.tolist())), crossed)
    assert found.blocks_p == pytest.approx(stats.f.sf(between / residual, 2, 6))


@pytest.mark.parametrize("design", [nested, crossed])
@pytest.mark.parametrize(("last", "p"), [(2.0, 0.0), (1.0, 1.0)])
def test_blocks_that_do_not_scatter_are_equal_where_their_values_are(design, last, p):
    assert mean_interval({"t": [1.0, 1.0], "u": [last, last]}, design).blocks_p == p


@pytest.mark.parametrize(("gap", "std"), [(0.1, 0.048), (0.1, 0.077), (0.05, 0.048)])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_the_number_of_seeds_that_detects_a_gap_is_that_of_a_simulation(gap, std, confidence):
    seeds = seeds_to_detect(gap, std, confidence=confidence)
    assert detection(gap, std, seeds - 1, confidence) < 0.8 <= detection(gap, std, seeds, confidence)
    source = np.random.default_rng(0)
    a, b = source.normal(0, std, (20_000, seeds)), source.normal(gap, std, (20_000, seeds))
    shown = stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue < 1 - confidence
    assert shown.mean() == pytest.approx(detection(gap, std, seeds, confidence), abs=0.025)


@pytest.mark.parametrize(
    ("gap", "low", "high"), [(0.0, -math.inf, 0.3), (0.2, -0.3, 0.3), (0.5, -0.3, 0.3), (0.3, 0, 0)]
)
@pytest.mark.parametrize("seeds", [(4, 4), (2, 4)])
def test_chances_to_decide_are_those_of_a_simulation(gap, low, high, seeds):
    stds, source, count = (0.05, 0.2), np.random.default_rng(0), 4000
    a, b = (source.normal(mean, std, (count, n)) for mean, std, n in zip((gap, 0), stds, seeds))
    interval = stats.ttest_ind(a, b, axis=1, equal_var=False).confidence_interval(0.95)
    inside = np.mean((interval.low >= low) & (interval.high <= high))
    outside = np.mean((interval.high < low) | (interval.low > high))
    assert chances(gap, stds, seeds, low, high, 0.95) == pytest.approx((inside, outside), abs=0.03)
