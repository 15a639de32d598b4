"""Power: a textbook's number, simulated tests, and what follows from them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.effects.contrast import difference
from eval.effects.variance import Scatter, detectable, power_of, seeds_needed, teachers_needed
from sida.errors import UserError

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
    with pytest.raises(UserError, match="1 training seeds have no interval"):
        power_of(1.0, ONE, 1)
    with pytest.raises(UserError, match="not all 0"):
        Scatter(0.0, 0.0)


def test_teachers_are_needed_where_they_scatter():
    scatter = Scatter(0.1, 0.1, teacher=1.0)
    few, many = teachers_needed(1.0, scatter, 10), teachers_needed(1.0, scatter, 2)
    assert 8 <= few <= many <= 12  # a paired test of d = 1 needs ten
    with pytest.raises(UserError, match="ask for the number of seeds"):
        teachers_needed(1.0, ONE, 3)
