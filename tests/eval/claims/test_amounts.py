"""The size of an effect in words."""

from __future__ import annotations

import pytest

from eval.claims.model import Finding
from eval.claims.write import amount, together
from tests.eval.claims.evidence import A, B, rule


def told(name, numbers, **settings):
    """The effect of a finding with these numbers."""
    operands = {"a": A} if name in ("TREND", "DIVERGES") else {"a": A, "b": B}
    return amount(rule(rule=name, **{"metric": "fd", **operands, **settings}), Finding("supported", "", numbers))


@pytest.mark.parametrize(
    ("name", "numbers", "settings", "expected"),
    [
        ("LT", {"gain": 1.4789, "bound": 0.18}, {}, "fd +1.48 [+1.30, +1.66]"),
        ("TRAIN", {"gain": 1.4789, "bound": 0.18, "low": 1.2, "high": 1.7}, {}, "fd +1.48 [+1.20, +1.70]"),
        ("LT", {"gain": -41.5, "bound": 4.9}, {}, "fd −41.5 [−46.4, −36.6]"),
        ("LT", {"gain": 0.00012, "bound": 0.00009}, {}, "fd +0.000 [+0.000, +0.000]"),
        ("RATIO", {"ratio": 0.97, "bound": 0.02}, {"metric": "recall"}, "ratio of recall 0.970 [0.950, 0.990]"),
        ("RATIO", {"ratio": 1.1, "bound": 0.2}, {"quantity": "memory_mb"}, "ratio of memory_mb 1.10 [0.90, 1.30]"),
        ("SPEED", {"ratio": 1.0, "level": 6.9}, {}, "ratio of images 1.00"),
        ("SPEED", {"ratio": 2.0, "low": 1.5, "high": float("inf")}, {}, "ratio of images 2.00"),
        ("COST", {"ratio": 1.23, "low": 1.01, "high": 1.49}, {}, "ratio of images 1.23 [1.01, 1.49]"),
        ("COST", {"ratio": 1.23}, {"quantity": "seconds"}, "ratio of seconds 1.23"),
        ("COST", {"ratio": 1.23, "censored": "at most"}, {}, "ratio of images at most 1.23"),
        ("TREND", {"slope": 0.11, "bound": 0.3, "seeds": 3}, {}, "slope of fd +0.11 [−0.19, +0.41]"),
        ("SPREAD", {"gain": -0.01, "bound": 0.07}, {}, "margin of the relative spread of fd −0.010 [−0.080, +0.060]"),
        ("DIVERGES", {"diverged": 2, "seeds": 3}, {}, "2 of 3 seeds diverge"),
        ("LT", {"gain": 0.5, "bound": 0.0}, {}, "fd +0.50 [+0.50, +0.50]"),
        ("LT", {}, {}, None),
        ("LT", {"gain": float("nan"), "bound": 0.1}, {}, None),
    ],
)
def test_an_amount_shows_its_interval_with_digits_enough(name, numbers, settings, expected):
    found = told(name, numbers, **settings)
    assert (found and found["text"]) == expected


def test_several_comparisons_are_a_range_by_what_they_compare():
    gains = [told("LT", {"gain": gain, "bound": 0.1}) for gain in (1.5, -0.25, 0.5)]
    other = told("LT", {"gain": 0.3, "bound": 0.1}, metric="is")
    assert together([]) == together([None]) == ""
    assert together(gains[:1]) == "fd +1.50 [+1.40, +1.60]"
    assert together(gains) == "fd −0.25 to +1.50 (3 comparisons)"
    assert together([*gains, other]) == "fd −0.25 to +1.50; is +0.30 [+0.20, +0.40] (4 comparisons)"
    assert together([gains[0], None]) == "fd +1.50 [+1.40, +1.60] (1 of 2 comparisons)"
