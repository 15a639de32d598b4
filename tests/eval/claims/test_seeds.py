"""TRAIN over seeds and teachers: the interval that decides, what the evidence says, and effects in words."""

import dataclasses

import pytest

from eval.claims import Claim, Operand, decide
from eval.claims.costs import cost_table
from eval.claims.model import Finding
from eval.claims.power import plans, power_table
from eval.claims.write import amount, comparisons, together
from eval.effects.variance import Scatter, detectable, seeds_needed
from eval.results.sheet import SheetRow
from eval.tables.render import to_markdown
from tests.eval.claims.evidence import A, B, curve, lines, log, made, rows_of, rule, spread, verdict
from tests.refused import refused

TRAIN = {"rule": "TRAIN", "metric": "fd", "a": rows_of(recipe="a"), "b": rows_of(recipe="b")}
COST = TRAIN | {"rule": "COST"}


def seeds_evidence(**values):
    """Evidence of runs ``{recipe}_{teacher}=[value of each training seed]``."""
    rows, sheet = [], []
    for key, means in values.items():
        recipe, _, teacher = key.partition("_")
        for seed, mean in enumerate(means):
            name = f"{key}-s{seed}"
            rows += lines(name, spread(mean, 0.01))
            sheet.append(SheetRow(name, recipe, "sid", "x", recipe=recipe, teacher=teacher, seed=seed))
    return made(rows, sheet)


def finding(evidence, **part):
    return verdict(evidence, **TRAIN | part).findings[0]


def test_the_interval_decides_and_not_two_standard_errors():
    # Difference 1 with a standard error of 0.408 and four degrees of freedom: 2.45 of them, but t is 2.776.
    near = seeds_evidence(a_t=[0.5, 1.0, 1.5], b_t=[1.5, 2.0, 2.5])
    found = finding(near)
    assert found.outcome == "not decided here"
    assert found.numbers["low"] == pytest.approx(1 - 2.776 * 0.40825, abs=1e-3)
    assert found.numbers["df"] == pytest.approx(4)
    far = finding(seeds_evidence(a_t=[0.5, 1.0, 1.5], b_t=[1.7, 2.2, 2.7]))
    assert far.outcome == "supported"
    assert "gain 1.2, 95 % interval 0.0665 to 2.33 (p 0.042); 2.4 standard deviations over seeds" in far.evidence
    assert finding(seeds_evidence(b_t=[0.5, 1.0, 1.5], a_t=[1.7, 2.2, 2.7])).outcome == "contradicted"
    assert finding(seeds_evidence(b_t=[0.5, 1.0, 1.5], a_t=[1.7, 2.2, 2.7]), direction="higher").outcome == "supported"


def test_seeds_are_compared_within_teachers():
    two = seeds_evidence(a_t=[1.0, 1.2, 0.8], a_u=[3.0, 3.2, 2.8], b_t=[1.5, 1.7, 1.3], b_u=[3.7, 3.9, 3.5])
    found = finding(two)
    assert found.outcome == "supported"
    assert found.numbers["teachers"] == 2
    assert {name: one["value"] for name, one in found.numbers["by_teacher"].items()} == pytest.approx(
        {"t": 0.5, "u": 0.7}
    )
    assert found.numbers["teachers_p"] == pytest.approx(0.41, abs=0.01)
    # A teacher of one side alone is not compared.
    found = finding(seeds_evidence(a_t=[1.0, 1.2, 0.8], a_u=[3.0, 3.2, 2.8], b_t=[1.5, 1.7, 1.3]))
    assert found.outcome == "not decided here"
    assert "only one side of the difference has runs of u" in found.evidence


def test_teachers_that_disagree_are_not_averaged():
    # Clearly better from one teacher, worse from the other: the mean would be "supported".
    against = seeds_evidence(a_t=[1.0, 1.1, 0.9], a_u=[3.5, 3.6, 3.4], b_t=[3.0, 3.1, 2.9], b_u=[3.1, 3.2, 3.0])
    found = finding(against)
    assert found.outcome == "depends on the teacher"
    assert found.numbers["low"] > 0
    assert "F test" in found.evidence
    # Teachers that differ in the size alone do not change the answer.
    sizes = seeds_evidence(a_t=[1.0, 1.1, 0.9], a_u=[3.0, 3.1, 2.9], b_t=[3.0, 3.1, 2.9], b_u=[4.0, 4.1, 3.9])
    assert finding(sizes).outcome == "supported"


def test_many_comparisons_are_counted_and_verdicts_that_need_one_by_chance_are_marked():
    rows = {f"a_t{i}": [1.0, 1.2, 0.8] for i in range(20)} | {f"b_t{i}": [1.01, 1.21, 0.81] for i in range(20)}
    rows |= {"a_near": [0.5, 1.0, 1.5], "b_near": [1.7, 2.2, 2.7], "a_far": [1.0, 1.1, 0.9], "b_far": [9.0, 9.1, 8.9]}
    teachers = [*(f"t{i}" for i in range(20)), "near", "far"]
    parts = [rule(**TRAIN | {k: rows_of(recipe=k, teacher=t) for k in "ab"}) for t in teachers]
    verdicts = decide([Claim(t, "x", "test", (p,)) for t, p in zip(teachers, parts)], seeds_evidence(**rows))
    assert {v.claim.id: v.chance for v in verdicts if v.outcome == "supported"} == {"near": True, "far": False}
    assert comparisons(verdicts).startswith("22 comparisons")
    # By itself the near one stands.
    (alone,) = decide([verdicts[20].claim], seeds_evidence(**rows))
    assert not alone.chance


def curves(folder, **runs):
    """Logs of runs ``{recipe}_{teacher}=[values of each seed, every thousand images]``; a tick of 2 s each."""
    for key, seeds in runs.items():
        for seed, values in enumerate(seeds):
            curve(folder, f"{key}-s{seed}", [(1000 * i, value) for i, value in enumerate(values)])
            ticks = [{"nimg": 1000 * (i + 1), "seconds": 2.0 if key.startswith("a") else 1.0} for i in range(9)]
            log(folder, f"{key}-s{seed}", "train.jsonl", ticks)
    found = seeds_evidence(**{key: [min(v) for v in values] for key, values in runs.items()})
    return dataclasses.replace(found, students=folder)


SLOW = [[10, 8, 7, 6, 5, 4], [10, 8, 7, 6, 5, 4.2], [10, 8, 7, 6, 5, 4.1]]
FAST = [[10, 4, 3], [10, 4, 3.1], [10, 4.1, 3]]


def test_the_cost_to_a_level_is_compared_between_equal_seeds_in_images_and_seconds(tmp_path):
    found = curves(tmp_path, a_t=FAST, b_t=SLOW)
    wins = finding(found, rule="COST", factor=4.0)
    assert wins.outcome == "supported"
    # Levels 4, 4.2, 4.1: reached at 1000, 967 and 1000 of A, and at 5000 of B.
    assert wins.numbers["ratios"] == pytest.approx([5.0, 5000 / (5.8 / 6 * 1000), 5.0])
    assert "images until fd 4 to 4.2" in wins.evidence
    assert finding(found, rule="COST", factor=6.0).outcome == "contradicted"
    assert finding(found, rule="COST", factor=5.1).outcome == "not decided here"
    # A second of A's training sees half as many images.
    seconds = finding(found, rule="COST", factor=2.4, quantity="seconds")
    assert seconds.outcome == "supported"
    assert seconds.numbers["ratio"] == pytest.approx(wins.numbers["ratio"] / 2)
    assert finding(found, rule="COST", crossing="evaluation").numbers["ratios"] == [5.0, 5.0, 5.0]
    # The table of costs has images and seconds.
    found = curves(tmp_path, a_t=FAST, b_t=SLOW)
    claims = [Claim("X", "x", "test", (rule(**COST),))]
    images, seconds = to_markdown(cost_table(claims, found)).splitlines()[-2:]
    assert images.startswith("| X | fd 4 to 4.2")
    assert images.endswith("| a | 989 images | b | 5,000 images | ratio 5.1 [4.8, 5.3] of 3 pairs |")
    assert seconds.startswith("| X, in seconds | fd 4 to 4.2")
    assert seconds.endswith("| a | 2 seconds | b | 5 seconds | ratio 2.5 [2.4, 2.7] of 3 pairs |")
    one = [Claim("X", "x", "test", (rule(**COST, quantity="seconds"),))]
    assert to_markdown(cost_table(one, found)).count("seconds |") == 2


def test_runs_that_never_reach_the_level_are_counted(tmp_path):
    slow = [*SLOW[:2], [10, 8, 7, 6, 5, 4.9]]
    found = curves(tmp_path, a_t=[[10, 4, 3]] * 3, b_t=slow, l_t=[[4.5], [4.5]])
    level = Operand(run="l_t-s0")
    wins = finding(found, rule="COST", factor=3.0, level=level)
    assert "ratio at least" in wins.evidence
    assert "(1 of 3 of B never)" in wins.evidence
    assert wins.outcome == "supported"
    lost = finding(found, rule="COST", factor=3.0, level=level, a=TRAIN["b"], b=TRAIN["a"])
    assert "(1 of 3 of A never)" in lost.evidence
    assert lost.outcome == "contradicted"
    # An effect that is a bound says so.
    said = [amount(rule(**COST), one)["what"] for one in (wins, lost)]
    assert said == ["ratio of images at least", "ratio of images at most"]
    # What is at most so much may be less.
    few = finding(found, rule="COST", factor=0.1, level=level, a=TRAIN["b"], b=TRAIN["a"])
    assert few.outcome == "not decided here"


def test_costs_need_pairs_and_a_level_of_their_own_teacher(tmp_path):
    runs = {"a_t": FAST, "a_u": FAST, "b_t": SLOW, "b_u": SLOW, "l_t": [[5.0]], "l_u": [[6.0]]}
    found = curves(tmp_path, **runs)
    both = finding(found, rule="COST", factor=2.0, level=rows_of(recipe="l"))
    assert both.outcome == "supported"
    assert "fd 5 to 6 (each pair's own teacher, such as l;" in both.evidence
    assert both.numbers["pairs"] == 6
    odd = finding(found, rule="COST", b=rows_of(recipe="b", teacher="t"))
    assert "only one side has runs of u seed 0, u seed 1, u seed 2" in odd.evidence


def test_plans_say_how_many_seeds_a_claim_needs_and_where_on_the_curve(tmp_path):
    found = seeds_evidence(a_t=[1.0, 1.2, 0.8], a_u=[3.0, 3.2, 2.8], b_t=[1.5, 1.7, 1.3], b_u=[3.7, 3.9, 3.5])
    waiting = SheetRow(run="c-s0", label="label c", method="sid", sampler="x", recipe="c", teacher="t", seed=0)
    found = dataclasses.replace(found, runs={**found.runs, "c-s0": waiting})
    claim = Claim("X", "x", "test", (rule(**TRAIN), rule(**TRAIN | {"b": rows_of(recipe="c")})))
    plan, absent = plans([claim], found, "10%")
    assert (plan.claim, plan.seeds, plan.teachers) == ("X", 3, 2)
    assert (plan.difference, plan.std_a, plan.std_b) == pytest.approx((-0.6, 0.2, 0.2))
    scatter = Scatter(0.2, 0.2)
    assert plan.detectable == pytest.approx(detectable(scatter, 3, 2))
    assert plan.needed == seeds_needed(0.6, scatter, 2)
    assert plan.smallest == pytest.approx(0.26)
    assert plan.needed_smallest == seeds_needed(0.26, scatter, 2) > plan.needed
    assert (absent.claim, absent.difference) == ("X/2", None)
    assert "no measurement" in absent.reason
    assert absent.comparison == "a − label c"  # the sheet's labels, measured or not
    table = to_markdown(power_table([plan, absent]))
    assert "| X | fd | a − b | −0.6 | 0.2 | 0.2 | 3 × 2 |" in table
    assert "X/2: no measurement" in table
    refused("--smallest tiny", plans, [claim], found, "tiny")
    # A plan says where on the curve it looks.
    found = curves(tmp_path, a_t=FAST, b_t=SLOW)
    ends = {"b": Operand(where={"recipe": "a"}, at="start"), "a": Operand(where={"recipe": "a"}, at="end")}
    (plan,) = plans([Claim("X", "x", "test", (rule(**TRAIN | ends),))], found)
    assert plan.comparison == "a at the end − a at the start"


def told(name, numbers, **settings):
    """The effect of a finding with these numbers."""
    operands = {"a": A} if name in ("TREND", "DIVERGES") else {"a": A, "b": B}
    return amount(rule(rule=name, **{"metric": "fd", **operands, **settings}), Finding("supported", "", numbers))


@pytest.mark.parametrize(
    ("name", "numbers", "settings", "expected"),
    [
        ("LT", {"gain": 1.4789, "bound": 0.18}, {}, "fd +1.48 [+1.30, +1.66]"),
        ("LT", {"gain": 0.00012, "bound": 0.00009}, {}, "fd +0.000 [+0.000, +0.000]"),
        ("RATIO", {"ratio": 0.97, "bound": 0.02}, {"metric": "recall"}, "ratio of recall 0.970 [0.950, 0.990]"),
        ("RATIO", {"ratio": 1.1, "bound": 0.2}, {"quantity": "memory_mb"}, "ratio of memory_mb 1.10 [0.90, 1.30]"),
        ("SPEED", {"ratio": 2.0, "low": 1.5, "high": float("inf")}, {}, "ratio of images 2.00"),
        ("COST", {"ratio": 1.23, "low": 1.01, "high": 1.49}, {}, "ratio of images 1.23 [1.01, 1.49]"),
        ("COST", {"ratio": 1.23, "censored": "at most"}, {}, "ratio of images at most 1.23"),
        ("TREND", {"slope": 0.11, "bound": 0.3, "seeds": 3}, {}, "slope of fd +0.11 [−0.19, +0.41]"),
        ("SPREAD", {"gain": -0.01, "bound": 0.07}, {}, "margin of the relative spread of fd −0.010 [−0.080, +0.060]"),
        ("DIVERGES", {"diverged": 2, "seeds": 3}, {}, "2 of 3 seeds diverge"),
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
