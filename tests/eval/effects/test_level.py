"""Costs to a level: where a curve reaches it, in seconds, and ratios with runs that never do."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.effects.contrast import Cost, crossing, seconds_until, speedup
from sida.errors import UserError

CURVE = [(0.0, 10.0), (1000.0, 6.0), (2000.0, 7.0), (3000.0, 4.0)]


def test_a_level_is_reached_between_two_evaluations_or_at_one():
    assert crossing(CURVE, 8.0) == Cost(500.0)
    assert crossing(CURVE, 8.0, "evaluation") == Cost(1000.0)
    assert crossing(CURVE, 5.0) == Cost(2000 + 1000 * 2 / 3)
    assert crossing(CURVE, 4.0) == Cost(3000.0)
    assert crossing(CURVE, 3.0) == Cost(3000.0, reached=False)
    assert crossing(CURVE, 11.0) == Cost(0.0)
    assert crossing([(0.0, math.inf), (1000.0, 4.0)], 5.0) == Cost(1000.0)
    with pytest.raises(UserError, match="train with an evaluation"):
        crossing([], 5.0)


@given(st.floats(4.0, 10.0), st.floats(4.0, 10.0))
def test_a_lower_level_never_costs_less(one, other):
    low, high = sorted((one, other))
    assert crossing(CURVE, high).value <= crossing(CURVE, low).value
    assert crossing(CURVE, low).value <= crossing(CURVE, low, "evaluation").value


def test_seconds_are_those_of_the_ticks():
    ticks = [(1000.0, 4.0), (2000.0, 2.0)]
    assert seconds_until(ticks, 500.0) == 2.0
    assert seconds_until(ticks, 1500.0) == 5.0
    assert seconds_until(ticks, 2000.0) == 6.0
    with pytest.raises(UserError, match="ends at 2,000 images, before 2,001"):
        seconds_until(ticks, 2001.0)


def test_the_ratio_is_a_geometric_mean_with_an_interval_on_the_logarithms():
    found = speedup({"t": [(Cost(1.0), Cost(2.0)), (Cost(1.0), Cost(8.0))]})
    assert found.mean == pytest.approx(4.0)
    half = 12.706 * math.log(2)  # the standard error of ln 2 and ln 8 is ln 2; one degree of freedom
    assert math.log(found.ratio.high / 4) == pytest.approx(half, rel=1e-3)
    assert math.log(4 / found.ratio.low) == pytest.approx(half, rel=1e-3)
    assert (found.bound, found.never_a, found.never_b) == ("", 0, 0)


def test_a_single_pair_has_no_interval():
    found = speedup({"t": [(Cost(1.0), Cost(2.0))]})
    assert (found.ratio, found.mean) == (None, pytest.approx(2.0))


def test_runs_that_never_reach_the_level_are_bounds_and_never_dropped():
    done, never = (Cost(1.0), Cost(4.0)), Cost(8.0, reached=False)
    least = speedup({"t": [done, (Cost(1.0), never)]})
    assert (least.bound, least.ratios, least.never_b) == ("at least", (4.0, 8.0), 1)
    most = speedup({"t": [done, (never, Cost(4.0))]})
    assert (most.bound, most.ratios, most.never_a) == ("at most", (4.0, 0.5), 1)
    for pairs in ([done, (never, never)], [(Cost(1.0), never), (never, Cost(4.0))]):
        found = speedup({"t": pairs})
        assert (found.bound, found.ratio, found.mean) == ("unknown", None, None)


def test_a_level_that_is_no_cost_is_refused():
    with pytest.raises(UserError, match="before it is trained"):
        speedup({"t": [(Cost(0.0), Cost(1.0))]})
    with pytest.raises(UserError, match="no pair"):
        speedup({})
