"""Signs in the log of a training, at the borders that the documentation states; and the numbers of a log."""

import math

import pytest

from sida.training import logs
from sida.training.shares import first_shares, negligible, share_remark

HEALTHY = {"nimg": 1000, "samples": 200, "nan_count": 0, "steps": 40, "bad_steps": 0}


def ticks(name, *counts):
    """Records that differ in one count."""
    return [{**HEALTHY, name: count} for count in counts]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"nan_count": 20}, None),  # 10 % are permitted
        ({"nan_count": 21}, "10 % of the samples up to image 1,000 were NaN (max_nan_share: 0.1)"),
        ({"bad_steps": 39}, None),
        ({"bad_steps": 40}, "every step up to image 1,000 had NaN or infinite gradients"),
        ({"nan_count": 0, "samples": 0}, None),
        ({"bad_steps": 0, "steps": 0}, None),
    ],
)
def test_a_run_is_hopeless_with_too_many_nan_or_without_a_valid_step(counts, words):
    assert logs.hopeless({**HEALTHY, **counts}, 0.1) == words


@pytest.mark.parametrize(
    ("name", "counts", "expected"),
    [
        # Of 200 samples 2 are 1 %, of 40 steps 4 are 10 %: neither is above.
        ("nan_count", [2], None),
        ("nan_count", [3], "2 % of the samples were NaN"),
        ("nan_count", [2, 3], "2 % of the samples were NaN"),
        ("nan_count", [3, 4], None),  # told before
        ("nan_count", [3, 0, 3], "2 % of the samples were NaN"),
        ("bad_steps", [4], None),
        ("bad_steps", [5], "12 % of the steps had NaN or infinite gradients"),
        ("bad_steps", [5, 6], None),
    ],
)
def test_a_tick_is_unhealthy_above_one_in_a_hundred_samples_or_one_in_ten_steps(name, counts, expected):
    assert logs.unhealthy(ticks(name, *counts)) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([2.0], None),
        ([2.0, 6.0], None),  # three times the best is not above
        ([2.0, 5.0, 6.01], "fd = 6.01 is 3.0 times its best (2 at image 0)"),
        ([5.0, 2.0, 8.0], "fd = 8 is 4.0 times its best (2 at image 10)"),
        ([2.0, 7.0, 8.0], None),  # told before
        ([2.0, 7.0, 3.0, 8.0], "fd = 8 is 4.0 times its best (2 at image 0)"),
        ([2.0, 7.0, 1.0], None),
        ([0.0, 7.0], None),  # no multiple of nothing
        ([2.0, math.inf], "fd = inf is inf times its best (2 at image 0)"),
    ],
)
def test_an_evaluation_far_above_the_best_is_told_once(values, words):
    points = [(10 * number, value) for number, value in enumerate(values)]
    assert logs.rising(points, "fd") == ([words] if words else [])


@pytest.mark.parametrize(
    ("values", "count"),
    [([], 0), ([5.0], 0), ([5.0, 5.0], 1), ([5.0, 4.5, 4.6], 2), ([5.0, 4.49, 4.6], 1), ([5.0, 4.9, 4.8, 4.4], 0)],
)
def test_evaluations_are_counted_from_the_last_that_improved_by_a_tenth(values, count):
    assert logs.since_best(values, 0.1) == count


def test_the_value_of_an_evaluation_is_the_one_that_it_names():
    records = [
        {"nimg": 0, "fd": 9.0},
        {"nimg": 16, "selection": "kid", "kid": 0.5, "fd": 8.0},
        {"nimg": 32, "fd": None},
    ]
    assert [logs.selection(record) for record in records] == [("fd", 9.0), ("kid", 0.5), ("fd", None)]
    assert logs.selected(records) == [(0, 9.0), (16, 0.5), (32, math.inf)]
    lost = logs.without_numbers({**records[1], "seconds": 3.0, "num_samples": 50})
    assert lost.keys() == {"selection", "kid", "fd", "num_samples"}
    assert (lost["selection"], lost["num_samples"], *map(math.isnan, (lost["kid"], lost["fd"]))) == (
        "kid",
        50,
        True,
        True,
    )
    cleaned = logs.without_nan({"fd": math.nan, "of": [1.0, math.inf], "name": "x", "n": 3})
    assert cleaned == {"fd": None, "of": [1.0, None], "name": "x", "n": 3}


def test_numbers_of_a_record_have_their_paths():
    record = {
        "nimg": 16,
        "losses": {"sid": 1, "adversarial": 0.5},
        "good": True,
        "trials": [1.0],
        "none": None,
        "fd": 2.0,
    }
    found = dict(logs.numbers(record, "train"))
    assert found == {"train/losses/sid": 1.0, "train/losses/adversarial": 0.5, "train/fd": 2.0}


def shares(*values, name="adversarial"):
    return [{"share": {"sid": 1 - value, name: value}} for value in values]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (shares(0.001, 0.001), {}),  # too few
        (shares(0.001, 0.002, 0.003), {"adversarial": 0.002}),
        (shares(0.01, 0.01, 0.01), {}),  # one in a hundred is no warning
        (
            [{}, *shares(0.001, 0.001), {}, *shares(0.004, 0.9)],
            {"adversarial": 0.002},
        ),  # the first three that have some
        ([*shares(0.002), *shares(None or 0.5, 0.5, name="other")], {}),
    ],
)
def test_a_term_is_negligible_below_a_hundredth_of_the_first_three_shares(records, expected):
    assert negligible(records) == pytest.approx(expected)
    assert len(first_shares(records)) == min(3, sum("share" in record for record in records))


def test_a_term_that_joins_later_has_the_mean_of_its_own_shares():
    records = [*shares(0.5, name="other"), *shares(0.002), *shares(0.004)]
    assert negligible(records) == pytest.approx({"adversarial": 0.003})
    assert share_remark("adversarial", 0.003).startswith("the term 'adversarial' has 0.3 % ")
