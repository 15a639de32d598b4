"""Each rule at its borders."""

import dataclasses
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sida.eval.claims.evidence import Evidence
from sida.eval.claims.finding import Finding, Operand, finding_of
from sida.eval.claims.write import combined
from sida.eval.contrasts import Interval
from sida.eval.results.retraining import Retraining
from sida.eval.results.sheet import SheetRow
from tests.eval.claims.evidence import (
    PUBLISHED,
    STILL,
    A,
    B,
    curve,
    evidence,
    lines,
    log,
    made,
    outcome,
    rows_of,
    spread,
    verdict,
)
from tests.refused import refused

LT = {"rule": "LT", "metric": "fd", "a": A, "b": B}
RATIO = {"rule": "RATIO", "metric": "fd", "a": A, "b": B}
OPEN = "not decided here"
RELEASED = SheetRow("a", "a", "sida", "x", checkpoint="x.safetensors")


def under(protocol, metric):
    """Columns of a value under the protocol of published numbers."""
    found = next(p.identity for p in PUBLISHED.values() if (p.protocol, p.metric.lower()) == (protocol, metric))
    columns = {name: getattr(found, name) for name in ("n", "settings", "classes", "resolution")}
    files = {"reference_sha256": found.reference, "extractor_sha256": found.extractor}
    return {"protocol": protocol, **columns, **files}


def test_generators_measured_against_other_files_are_not_compared():
    first, second = (lines(run, spread(value, 0.1), extractor_sha256=run) for run, value in (("a", 4.0), ("b", 5.0)))
    found = verdict(evidence(first, second), **LT)
    assert found.outcome == OPEN
    assert "not compared: run 'a' and run 'b'" in found.findings[0].evidence


def test_a_declared_pair_is_compared_and_its_evidence_names_both_protocols():
    student = lines("a", spread(4.0, 0.1), protocol="few", settings="other")
    found = evidence(student, lines("b", spread(9.0, 0.1), protocol="many"))
    assert outcome(found, **LT) == OPEN
    decided = verdict(found, **LT, across="students beside teachers")
    assert decided.outcome == "supported"
    assert all(word in decided.findings[0].evidence for word in ("'few'", "'many'", "students beside teachers"))


@pytest.mark.parametrize("part", [{"rule": "RATIO", "high": 0.9}, LT])
def test_a_quoted_rival_is_compared_only_where_declared_and_if_a_is_like_its_own_printed_number(part):
    operands = {"a": Operand(run="a", published="table1-sida-a1.0-fid"), "b": Operand(published="table1-gdd-i-fid")}
    part = part | {"metric": "fid"} | operands
    known = under("cifar10", "fid")
    true, other = (evidence(lines("a", spread(1.0, 0.001), "fid", **known | more)) for more in ({}, {"n": 5_000}))
    assert outcome(true, **part) == OPEN
    assert outcome(true, **part, across="a quoted rival") == "supported"
    assert outcome(other, **part, across="a quoted rival") == OPEN


def test_the_scatter_of_training_widens_verdicts_on_students_but_not_on_their_teacher():
    rows = [lines("a", spread(4.0, 0.01)), lines("b", spread(4.4, 0.01))]
    again = Retraining(std={"fd": 0.04}, source="made up", df=12)
    one, wide, unknown = (verdict(evidence(*rows, retraining=known), **LT) for known in (STILL, again, None))
    assert (one.outcome, wide.outcome, unknown.outcome) == ("supported", OPEN, OPEN)
    assert "trained again" in unknown.findings[0].evidence
    # By hand: 4 % of both, and Student's t for 99 % at twelve degrees of freedom, since both are one estimate.
    half = 3.055 * 0.04 * math.hypot(4.0, 4.4)
    assert wide.findings[0].numbers["high"] == pytest.approx(0.4 + half, rel=0.01)
    sheet = [SheetRow("a", "a", "sid", "x"), SheetRow("b", "b", "teacher", "x")]
    given = verdict(made([line for row in rows for line in row], sheet, retraining=again), **LT)
    assert given.findings[0].numbers["high"] == pytest.approx(0.4 + 3.054 * 0.04 * 4.0, rel=0.01)


WELCH = 3.0034 * math.sqrt((0.1**2 + 0.2**2) / 10)  # Student's t for 99 % at 13.24 degrees of freedom
NOISE = 3.2498 * 0.01 / math.sqrt(10)  # at nine degrees of freedom
LIMIT = 2.8784 * 0.05 * math.sqrt(2 / 10)  # at eighteen degrees of freedom
GDD = {"rule": "LT", "metric": "fid", "a": A, "b": Operand(published="table1-gdd-i-fid"), "across": "a rival"}


@pytest.mark.parametrize(
    ("a", "b", "part", "expected"),
    [
        ((4.0, 0.1), (4.0 + 1.001 * WELCH, 0.2), LT, "supported"),
        ((4.0, 0.1), (4.0 + 0.999 * WELCH, 0.2), LT, OPEN),
        ((4.0, 0.0), (4.0, 0.0), LT, OPEN),  # equal without any scatter
        # GDD-I's 1.54 on CIFAR-10: rounding hides 0.005.
        ((1.54 - 0.005 - NOISE - 1e-6, 0.01), None, GDD, "supported"),
        ((1.54 - 0.005 - NOISE + 1e-6, 0.01), None, GDD, OPEN),
        ((1.54 + 0.005 + NOISE + 1e-6, 0.01), None, GDD, "contradicted"),
        ((1.54 - 0.005 - NOISE - 1e-6, 0.01), None, GDD | {"slack": 0.02}, OPEN),
        # Exactly at the printed value: neither supported nor contradicted.
        ((1.0, 0.05), (1.0, 0.05), RATIO | {"low": 1.0}, OPEN),
        ((1.0, 0.05), (1.0, 0.05), RATIO | {"low": 1 - 1.01 * LIMIT}, "supported"),
        ((1.0, 0.05), (1.0, 0.05), RATIO | {"low": 1 + 1.01 * LIMIT}, "contradicted"),
        ((1.0, 0.05), (1.0, 0.05), RATIO | {"high": 1 - 1.01 * LIMIT}, "contradicted"),
        # Where A is four times B, B's noise counts four times: 0.2 beside A's 0.1.
        ((4.0, 0.1), (1.0, 0.05), RATIO | {"low": 4 - 1.001 * WELCH}, "supported"),
        ((4.0, 0.1), (1.0, 0.05), RATIO | {"low": 4 - 0.999 * WELCH}, OPEN),
        # "At most" has no other bound: the interval reaches below 0.
        ((0.04, 0.06), (2.0, 0.01), RATIO | {"high": 0.9}, "supported"),
    ],
)
def test_rules_on_single_generators_count_noise_and_rounding(a, b, part, expected):
    rows = [lines(name, spread(*values), part["metric"]) for name, values in (("a", a), ("b", b)) if values]
    assert outcome(evidence(*rows), **part) == expected


def test_p_is_that_of_the_bound_that_the_estimate_would_have_to_pass():
    ratio = Interval(1.02, 0.004, 30.0, 1.009, 1.031)
    found = finding_of(ratio, "", {}, high=1.005)
    assert found.outcome == "contradicted"
    assert found.numbers["p"] == pytest.approx(ratio.p_value(1.005))


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.001, 1), st.floats(0.001, 1))
def test_lt_is_antisymmetric(mean_a, mean_b, std_a, std_b):
    found = evidence(lines("a", spread(mean_a, std_a)), lines("b", spread(mean_b, std_b)))
    one, other = outcome(found, **LT), outcome(found, **LT | {"a": B, "b": A})
    assert {one, other} in ({"supported", "contradicted"}, {OPEN})
    assert outcome(found, **LT | {"a": B, "b": A}, direction="higher") == one


def test_a_single_trial_decides_nothing():
    found = verdict(evidence(lines("a", [1.0]), lines("b", spread(9.0, 0.1))), **LT)
    assert found.outcome == OPEN
    assert "single trial" in found.findings[0].evidence


def test_after_equally_many_images_the_curves_decide_and_not_the_kept_networks(tmp_path):
    """B was kept early; after as many images as A has at its end it is worse."""
    curve(tmp_path, "a", [(0, 30.0), (1000, 9.0), (2000, 7.0)])
    curve(tmp_path, "b", [(0, 30.0), (1000, 5.0), (2000, 8.0), (3000, 8.1)])
    rows = (lines("a", spread(7.0, 0.1)), lines("b", spread(5.0, 0.1)))
    assert outcome(evidence(*rows, results=tmp_path), **LT) == "contradicted"
    found = verdict(evidence(*rows, results=tmp_path), **LT, equal_images=True)
    assert found.outcome == "supported"
    assert found.findings[0].numbers["gain"] == pytest.approx(1.0)
    assert "2,000 images each" in found.findings[0].evidence
    part = {"rule": "RATIO", "metric": "fd", "a": A, "b": B, "equal_images": True}
    found = verdict(evidence(*rows, results=tmp_path), **part, high=1.0)
    assert found.outcome == "supported"
    assert found.findings[0].numbers["ratio"] == pytest.approx(7 / 8)
    assert "2,000 images each" in found.findings[0].evidence
    # Distances fall with the number of images of an evaluation.
    log(tmp_path, "b", "evaluations.jsonl", [{"nimg": n, "fd": 9.0, "num_samples": 500} for n in (1000, 2000)])
    for part in (LT | {"equal_images": True}, REACHES | {"b": B}):
        found = verdict(evidence(*rows, results=tmp_path), **part)
        assert found.outcome == OPEN
        assert "use 500 and 5,000 images" in found.findings[0].evidence
    # Untrained networks are equal images of all curves, and no result.
    curve(tmp_path, "b", [(0, 60.0), (1500, 8.0)])
    assert outcome(evidence(*rows, results=tmp_path), **LT, equal_images=True) == OPEN
    # The untrained networks at 0 are no result, and without logs nothing is decided.
    curve(tmp_path, "b", [(0, 30.0), (1500, 5.0)])
    for results in (tmp_path, None):
        assert outcome(evidence(*rows, results=results), **LT, equal_images=True) == OPEN


@pytest.mark.parametrize(("protocol", "expected"), [("imagenet64-uniform", OPEN), ("imagenet64", "supported")])
def test_eq_is_not_decided_by_a_measurement_under_another_protocol(protocol, expected):
    found = evidence(lines("a", spread(1.114, 0.01), "fid", **under(protocol, "fid")))
    operand = Operand(run="a", published="table3-sid2a-a1.0-ours-fid")
    assert outcome(found, rule="EQ", metric="fid", a=operand) == expected


@pytest.mark.parametrize(
    ("metric", "mean", "word"),
    [
        ("fid", 1.516, "agrees"),
        ("fid", 1.616, "worse"),
        ("fid", 0.2, "better"),  # a leak of the data, or a reference made from the samples
        ("is", 10.823, "better"),
        ("is", 9.823, "worse"),
    ],
)
def test_a_number_far_better_than_printed_is_no_reproduction(metric, mean, word):
    operand = Operand(run="a", published=f"table1-sida-a1.0-{metric}")
    rows = lines("a", spread(mean, 0.01), metric, **under("cifar10", metric))
    found = verdict(made(rows, [RELEASED]), rule="EQ", metric=metric, a=operand)
    assert found.outcome == ("supported" if word == "agrees" else "contradicted")
    assert f"; {word}" in found.findings[0].evidence


@pytest.mark.parametrize(
    ("metric", "mean", "released", "trained"),
    [
        # 1.516 ± 0.010 is printed: 1 % for the file, and three times √2 · 1.3 % for another training.
        ("fid", 1.516 * 1.009, "supported", "supported"),
        ("fid", 1.516 * 1.05, "contradicted", "supported"),
        ("fid", 1.516 * 0.95, "contradicted", "supported"),
        ("fid", 1.516 * 1.06, "contradicted", "contradicted"),
        # The scatter of other metrics is not known.
        ("is", 10.323, "supported", OPEN),
    ],
)
def test_a_row_that_is_trained_here_has_the_scatter_of_two_trainings(metric, mean, released, trained):
    operand = Operand(run="a", published=f"table1-sida-a1.0-{metric}")
    rows = lines("a", spread(mean, 0.001), metric, **under("cifar10", metric))
    # The scatter that a preset states is that of its own trainings, and EQ takes the papers'.
    unknown = Retraining(std={}, source="made up")
    for row, expected in ((RELEASED, released), (dataclasses.replace(RELEASED, checkpoint=None), trained)):
        assert outcome(made(rows, [row], retraining=unknown), rule="EQ", metric=metric, a=operand) == expected


def test_a_teacher_is_compared_by_the_lowest_of_three_trials_and_its_evidence_prints_that():
    operand = Operand(run="a", published="table1-vp-edm-fid")  # 1.97
    rows = lines("a", [2.11, 2.08, 1.96, 2.09, 2.10, 2.10], "fid", **under("cifar10", "fid"))
    decided = verdict(evidence(rows), rule="EQ", metric="fid", a=operand)
    (found,) = decided.findings
    assert decided.outcome == "supported"
    assert found.numbers["a"] - found.numbers["published"] == pytest.approx(found.numbers["difference"])
    assert found.evidence.startswith("fid 1.96 ")


SEEDS = {"metric": "fd", "seeds": 3, "a": rows_of(recipe="a"), "b": rows_of(recipe="b")}
BETTER, NEAR_ONE = SEEDS | {"rule": "LT"}, SEEDS | {"rule": "RATIO", "low": 0.9, "high": 1.1}


@pytest.mark.parametrize(
    ("a", "b", "part", "expected"),
    [
        ([4.0, 4.1, 4.3], [5.9, 6.0], BETTER, OPEN),
        ([4.0, 4.1, 4.3], [5.9, 6.0, 5.8], BETTER, "supported"),
        ([3.0, 4.1, 5.3], [3.9, 5.0, 6.8], BETTER, OPEN),  # seeds that differ too much
        ([1.0, 1.01, 0.99], [1.0, 1.001, 0.999], NEAR_ONE, "supported"),
        ([0.7, 1.0, 1.3], [1.0, 1.001, 0.999], NEAR_ONE, OPEN),
        ([1.3, 1.31, 1.32], [1.0, 1.001, 0.999], NEAR_ONE, "contradicted"),
        ([4.0, 4.0, 4.1], [5.9, 6.0, 5.8], BETTER, OPEN),  # two of them have equal values: one network, saved twice
    ],
)
def test_rules_on_training_need_three_seeds_and_count_their_spread(a, b, part, expected):
    rows = [lines(f"a-s{i}", spread(mean, 0.001)) for i, mean in enumerate(a)]
    rows += [lines(f"b-s{i}", spread(mean, 0.001)) for i, mean in enumerate(b)]
    assert outcome(evidence(*rows), **part) == expected


def rows_with(**changes):
    """Three trainings of ``a`` and of ``b``, the second of ``a`` with changes in sheet or measurements."""
    measured, sheet = [], []
    for recipe, mean in (("a", 4.0), ("b", 6.0)):
        for seed in range(3):
            name, changed = f"{recipe}{seed}", changes if (recipe, seed) == ("a", 1) else {}
            digest = changed.get("network_sha256", f"{10 * (recipe == 'b') + seed:02}" * 4)
            measured += lines(name, spread(mean + 0.01 * seed, 0.01), network_sha256=digest)
            cells = {k: v for k, v in changed.items() if k != "network_sha256"}
            columns = {"teacher": "t", "recipe": recipe, "seed": seed, "alpha": 1.0, "dataset": "d", **cells}
            sheet.append(SheetRow(name, name, "sid", "x", **columns))
    return measured, sheet


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"alpha": 1.2}, "differ in alpha"),
        ({"dataset": "e"}, "differ in dataset"),
        ({"seed": 0}, "two trainings with one seed"),
        ({"seed": None}, "write each seed"),
        ({"network_sha256": "00" * 4}, "are one network"),
        ({"network_sha256": "11" * 4}, "are one network"),  # with a training of the other side
        ({"teacher": "u"}, "only one side"),
    ],
)
def test_training_seeds_are_alike_but_for_teacher_and_seed_and_are_different_networks(changes, reason):
    part = {"rule": "LT", "metric": "fd", "seeds": 3, "b": rows_of(recipe="b"), "a": rows_of(recipe="a")}
    found = verdict(made(*rows_with(**changes)), **part)
    assert found.outcome == (OPEN if reason else "supported")
    assert reason in found.findings[0].evidence


def test_longer_trainings_are_not_compared_after_equally_many_images(tmp_path):
    """Six long rows of another recipe do not make a claim about equal images true."""
    measured, sheet = rows_with()
    for row in sheet:
        curve(tmp_path, row.run, [(0, 9.0), (1000 if row.recipe == "b" else 3000, 5.0)])
    part = {"rule": "LT", "metric": "fd", "seeds": 3, "a": rows_of(recipe="a"), "b": rows_of(recipe="b")}
    found = made(measured, sheet, tmp_path)
    assert outcome(found, **part) == "supported"
    for alike, reason in ((["length"], "differ in length"), (["teacher", "recipe"], "differ in recipe")):
        told = verdict(found, **part, alike=alike)
        assert told.outcome == OPEN
        assert reason in told.findings[0].evidence
    # Without logs the lengths are unknown, and those of a generator's trainings, too.
    without = Evidence(found.measurements, found.runs)
    two = {"seeds": 2} | {side: rows_of(recipe=side, seed=[0, 1]) for side in "ab"}
    for unknown in (without, made(measured, sheet, tmp_path / "elsewhere")):
        for more in ({}, two, {"alike": ["length"]}):
            assert "it is unknown" in verdict(unknown, **part | more).findings[0].evidence
    # One of the seeds is longer than the others; a start counts.
    curve(tmp_path, "a1", [(0, 9.0), (4000, 5.0)])
    assert "differ in length" in verdict(found, **part).findings[0].evidence
    longer = [dataclasses.replace(row, init="b0") if row.run == "a0" else row for row in sheet]
    assert made(measured, longer, tmp_path).length("a0") == 4000
    assert "of its start" in verdict(made(measured, longer, tmp_path), **part).findings[0].evidence


@pytest.mark.parametrize(("leads", "expected"), [((1.0, 1.1), "supported"), ((1.0, -0.4), OPEN)])
def test_teachers_that_disagree_are_not_averaged(leads, expected):
    rows, sheet = [], []
    for teacher, lead in zip("tu", leads):
        for recipe, mean in (("a", 5.0), ("b", 5.0 + lead)):
            for seed in range(3):
                name = f"{recipe}{teacher}{seed}"
                rows += lines(name, spread(mean + 0.02 * seed, 0.01))
                sheet.append(SheetRow(name, name, "sid", "x", teacher=teacher, recipe=recipe, seed=seed))
    found = verdict(made(rows, sheet), **BETTER)
    assert found.outcome == expected
    assert "by teacher" in found.findings[0].evidence
    assert "5 more trainings from 2 teachers" in found.findings[0].evidence
    assert found.findings[0].numbers["low"] > 0  # the average would be decided


@pytest.fixture
def fast_and_slow(tmp_path):
    """Evidence of runs ``a`` (6.0 after 8 thousand images) and ``b`` (6.0 after 40), by the noise of an evaluation."""

    def write(std=0.0, **levels):
        curve(tmp_path, "b", [(n * 1000, 10 - n * 0.1) for n in range(4, 44, 4)], std)
        curve(tmp_path, "a", [(n * 1000, 10 - n * 0.5) for n in range(1, 20)], std)
        rows = [lines(name, spread(level, 0.01)) for name, level in levels.items()]
        return evidence(lines("a", [1, 1]), lines("b", [1, 1]), *rows, results=tmp_path)

    return write


REACHES = {"rule": "REACHES", "metric": "fd", "a": A}


def test_reaches_compares_the_images_until_a_level_with_those_of_another_training(fast_and_slow):
    found, speed = fast_and_slow(), REACHES | {"b": B}
    assert outcome(found, **speed, times=5.0) == "supported"
    assert outcome(found, **speed, times=5.5) == OPEN  # spacing: 40/7
    assert outcome(found, **speed, times=6.0) == "contradicted"
    assert outcome(found, **speed | {"a": B, "b": A}) == "contradicted"  # never reaches it
    assert outcome(found, **speed | {"a": rows_of(method="sid")}, times=5.0) == OPEN  # two rows, not one curve
    assert outcome(fast_and_slow(std=1.0), **speed, times=5.0) == OPEN
    again = dataclasses.replace(found, retraining=Retraining(std={"fd": 0.05}, source="x"))
    assert outcome(again, **speed, times=5.0) == OPEN
    # Speed to a measured level needs the same number of images.
    part = {**speed, "times": 3.0, "level": Operand(run="t")}
    found = fast_and_slow(t=7.95)
    assert outcome(found, **part) == "supported"  # 24k against 5k
    other = [dataclasses.replace(row, n=2000) if row.run == "t" else row for row in found.measurements.rows]
    assert outcome(made(other, found.runs.values(), found.results), **part) == OPEN


def test_reaches_compares_the_images_until_a_level_with_a_number(tmp_path):
    curve(tmp_path, "a", [(n * 1000, 10 - n * 0.5) for n in range(1, 13)], std=0.3)  # 6.0 at 8k, ends at 4.0
    curve(tmp_path, "b", [(n * 1000, 10 - n * 0.1) for n in range(4, 44, 4)])
    levels = [lines("t", spread(6.0, 0.01)), lines("low", spread(2.0, 0.01))]
    found = evidence(lines("a", [1, 1]), lines("b", [1, 1]), *levels, results=tmp_path)
    part = REACHES | {"level": Operand(run="t")}
    assert outcome(found, **part, images=12000) == "supported"
    assert outcome(found, **part, images=8000) == OPEN  # noise of the evaluation at 8k
    assert outcome(found, **part, images=5000) == "contradicted"
    assert outcome(found, **part, images=5000, factor=1.5) == "supported"  # 9.0 at 2k
    for factor in (1.0, 2.0):
        text = verdict(found, **part, images=12000, factor=factor).findings[0].evidence
        assert (f"({factor:g} × " in text) == (factor != 1)
    # Never falls to it: contradicted by a curve that is long enough, else left open.
    low = part | {"a": B, "level": Operand(run="low")}
    assert outcome(found, **low, images=40000) == "contradicted"
    assert outcome(found, **low, images=90000) == OPEN


@pytest.mark.parametrize(("images", "expected"), [(29_000, OPEN), (33_000, "supported")])
def test_a_multiple_of_a_level_has_the_multiple_of_its_noise(tmp_path, images, expected):
    """The mean of ten trials has a standard error of 0.5, its double one of 1: 2.58 times that are 26 evaluations."""
    curve(tmp_path, "a", [(n * 1000, 10 - n * 0.1) for n in range(1, 61)])
    levels = lines("t", spread(4.75, 0.5 * math.sqrt(10)))
    found = evidence(lines("a", [1, 1]), levels, results=tmp_path)
    part = REACHES | {"level": Operand(run="t"), "factor": 2.0}
    assert outcome(found, **part, images=images) == expected


@pytest.mark.parametrize(("n", "expected"), [(500, OPEN), (50_000, "supported")])
def test_a_published_level_is_one_of_its_own_number_of_images(tmp_path, n, expected):
    records = [{"nimg": 1000 * i, "fid": 6.0 - i, "fid_std": 0.001, "fid_trials": [0] * 3} for i in range(1, 6)]
    log(tmp_path, "a", "evaluations.jsonl", [record | {"num_samples": n} for record in records])
    part = REACHES | {"metric": "fid", "level": Operand(published="table1-sida-a1.0-fid"), "images": 5000}
    found = evidence(lines("a", spread(1.0, 0.001), "fid", **under("cifar10", "fid")), results=tmp_path)
    assert outcome(found, **part) == expected


@pytest.mark.parametrize(("images", "expected"), [(105_000, OPEN), (107_000, "supported")])
def test_the_noise_of_a_single_evaluation_is_a_share_of_the_level(tmp_path, images, expected):
    """2 % of the measurement is 2 at the level 100, and 2.58 times that are six evaluations."""
    records = [{"nimg": 1000 * n, "fd": 200.0 - n, "num_samples": 5000} for n in range(1, 121)]
    log(tmp_path, "a", "evaluations.jsonl", records)
    found = evidence(lines("a", spread(10.0, 0.2, trials=2)), results=tmp_path)
    assert outcome(found, **REACHES, level=Operand(value=100.0, label="100"), images=images) == expected


@pytest.mark.parametrize(("std", "expected"), [(0.01, "supported"), (1.0, OPEN)])
@pytest.mark.parametrize("trials", [1, 3])
def test_the_level_of_another_curve_scatters(tmp_path, std, expected, trials):
    """B is at its lowest, 5, after 40,000 images, and A after 10,000; the noise is that of B's evaluations."""
    for run, slope, stop, noise in (("a", 0.5, 19, 1e-3), ("b", 0.125, 41, std)):
        points = [{"nimg": 1000 * n, "fd": 10 - slope * n, "num_samples": 5000} for n in range(1, stop)]
        of_trials = {"fd_std": noise, "fd_trials": [0] * trials} if trials > 1 else {}
        log(tmp_path, run, "evaluations.jsonl", [point | of_trials for point in points])
    found = evidence(lines("a", spread(1.0, 1e-4)), lines("b", spread(5.0, std)), results=tmp_path)
    assert outcome(found, **REACHES, b=B, times=3.5) == expected


def test_both_trainings_of_a_speed_scatter(tmp_path):
    """A's curve is below 5 − z at 50,000 + 10,000 z images; 2.6 times the scatter is z."""
    curve(tmp_path, "a", [(1000 * n, 10 - 0.1 * n) for n in range(1, 91)])
    curve(tmp_path, "b", [(60000, 7.0), (117000, 5.0)])
    rows = [lines("a", [1, 1]), lines("b", [1, 1]), lines("t", spread(5.0, 1e-6))]
    number = REACHES | {"level": Operand(value=5.0, label="5"), "images": 58500}
    another = {"a row's level": number | {"level": Operand(run="t")}, "b": REACHES | {"b": B, "times": 2.0}}
    against = {"a number": number, **another}
    for name, std, expected in (
        ("a number", 0.06, "supported"),  # 57,728
        ("a number", 0.07, OPEN),
        *[(name, 0.06, OPEN) for name in another],  # 60,928
        *[(name, 0.06 / 2**0.5, "supported") for name in another],
    ):
        found = evidence(*rows, results=tmp_path, retraining=Retraining(std={"fd": std}, source="x"))
        assert outcome(found, **against[name]) == expected, (name, std)
    # The level of a teacher that was trained here is another training but for its own student.
    rows[-1] = [dataclasses.replace(line, trained_on="cpu") for line in rows[-1]]
    for teacher, expected in (("t", "supported"), ("u", OPEN)):
        sheet = [SheetRow("t", "t", "teacher", "x", teacher="t"), SheetRow("a", "a", "sid", "x", teacher=teacher)]
        found = made([line for row in rows for line in row], sheet, tmp_path, Retraining(std={"fd": 0.06}, source="x"))
        assert outcome(found, **another["a row's level"]) == expected, teacher


@pytest.mark.parametrize(("n", "expected"), [(5000, "supported"), (500, OPEN)])
@pytest.mark.parametrize("trials", [[4.0] * 3, [4.0]])
def test_an_evaluation_of_fewer_images_is_not_as_sure_as_the_measurement(tmp_path, n, expected, trials):
    for run, ends in (("a", (5.0, 4.0)), ("b", (7.0, 4.3))):
        records = [{"nimg": 1000 * i, "fd": end, "num_samples": n} for i, end in enumerate(ends, 1)]
        log(tmp_path, run, "evaluations.jsonl", [r | {"fd_trials": trials, "fd_std": 0.6} for r in records])
    found = evidence(lines("a", spread(4.0, 0.01)), lines("b", spread(4.3, 0.01)), results=tmp_path)
    assert outcome(found, **LT, equal_images=True) == expected
    if len(trials) == 1:
        assert outcome(found, **REACHES, b=B, factor=1.1) == expected


@pytest.mark.parametrize(("share", "expected"), [(0.004, "supported"), (0.1, OPEN)])
def test_an_evaluation_scatters_by_the_share_of_its_value_that_the_measurement_does(tmp_path, share, expected):
    for run, value in (("a", 40.0), ("b", 43.0)):
        log(tmp_path, run, "evaluations.jsonl", [{"nimg": 1000, "fd": value, "num_samples": 5000}])
    kept = (lines(run, spread(value, value * share)) for run, value in (("a", 30.0), ("b", 20.0)))
    assert outcome(evidence(*kept, results=tmp_path), **LT, equal_images=True) == expected


@pytest.mark.parametrize("records", [[], [{"nimg": 1000, "fd": None}, {"nimg": 2000, "fd": 4.0}]])
def test_a_curve_without_a_number_leaves_its_claim_open_and_ends_no_other(tmp_path, records):
    curve(tmp_path, "b", [(1000, 5.0), (2000, 4.0)])
    log(tmp_path, "a", "evaluations.jsonl", records)
    found = evidence(lines("a", spread(3.0, 0.01)), lines("b", spread(4.0, 0.01)), results=tmp_path)
    for part in (REACHES | {"b": B}, LT | {"equal_images": True}):
        decided = verdict(found, **part)
        assert decided.outcome == OPEN
        assert "run 'a'" in decided.findings[0].evidence


QUANTITY = {"rule": "RATIO", "a": A, "b": B}


def test_ratio_of_logged_quantities(tmp_path):
    for run, speed, peak in (("a", 300.0, 15000.0), ("b", 330.0, 13300.0)):
        ticks = [{"nimg": n, "img_per_s": speed, "memory_mb": 9000.0} for n in range(1, 6)]
        ticks = [tick | {"memory_reserved_mb": peak - 3000 * (tick["nimg"] < 3)} for tick in ticks]
        log(tmp_path, run, "train.jsonl", [ticks[0] | {"img_per_s": 1.0}, *ticks[1:]])
    found = evidence(lines("a", [1, 1]), lines("b", [1, 1]), results=tmp_path)
    assert outcome(found, **QUANTITY, quantity="seconds_per_kimg", low=1.0, high=1.2) == "supported"
    slower = verdict(found, **QUANTITY, quantity="seconds_per_kimg", high=1.05)
    assert slower.outcome == "contradicted"
    assert slower.findings[0].evidence.startswith("seconds_per_kimg ")
    assert outcome(found, **QUANTITY, quantity="nfe", low=1, high=1) == "supported"
    assert outcome(found, **QUANTITY | {"a": rows_of(method="sid")}, quantity="memory_mb") == OPEN  # two trainings
    assert outcome(evidence(lines("a", [1, 1]), lines("b", [0, 0])), rule="RATIO", metric="fd", a=A, b=B) == OPEN
    # Memory is the most of a run, reserved or allocated.
    assert outcome(found, **QUANTITY, high=1.01, quantity="memory_mb") == "supported"
    assert outcome(found, **QUANTITY, high=1.01, quantity="memory_reserved_mb") == "contradicted"
    # A number of certain cards is compared with trainings on these.
    for run, speed in (("a", 300.0), ("b", 330.0)):
        tick = {"nimg": 1, "img_per_s": speed, "memory_reserved_mb": 13.4 * 1024, "gpus": "8 × Tesla V100-SXM2-16GB"}
        log(tmp_path, run, "train.jsonl", [*4 * [tick | {"gpus": "1 × A100"}], tick])
    seconds = QUANTITY | {"quantity": "seconds_per_kimg"}
    rate = Operand(published="table8-sida-seconds-per-1k-images-cifar-10-sec-per-kimg")
    printed = {"b": rate, "low": 0.9, "high": 1.1}
    assert outcome(found, **seconds | printed, gpus="8 × V100") == "supported"
    decided = verdict(found, **seconds | printed, gpus="8 × H100")
    assert decided.outcome == OPEN
    assert "8 × Tesla V100-SXM2-16GB" in decided.findings[0].evidence
    memory = Operand(published="table8-sida-max-memory-in-gb-reserved-per-gpu-cifar-10-mem-reserved-gb")
    assert outcome(found, **QUANTITY | printed | {"quantity": "memory_reserved_gb", "b": memory}) == "supported"


def test_the_median_of_logged_values_scatters_more_than_their_mean(tmp_path):
    seconds = {"a": [0.9, 1.1] * 10, "b": [1.0] * 20}
    for run, values in seconds.items():
        ticks = [{"nimg": n, "img_per_s": 1000 / value} for n, value in enumerate(values, 1)]
        log(tmp_path, run, "train.jsonl", [{"nimg": 0, "img_per_s": 1.0}, *ticks])
    found = evidence(lines("a", [1, 1]), lines("b", [1, 1]), results=tmp_path)
    spread_of_mean = statistics.stdev(seconds["a"]) / 20**0.5
    bound = lambda factor: 1 + float(stats.t.ppf(0.995, 19)) * factor * spread_of_mean
    # The median of many normal values: √(π/2) times.
    for factor, expected in ((1.15, OPEN), (1.35, "supported")):
        assert outcome(found, **QUANTITY, quantity="seconds_per_kimg", high=bound(factor)) == expected


@pytest.mark.parametrize("count", [2, 3, 6])
def test_the_noise_of_a_log_has_the_degrees_of_freedom_of_its_records(tmp_path, count):
    log(tmp_path, "a", "train.jsonl", [tick(img_per_s=100.0 + number) for number in range(-1, count)])
    part = {"rule": "RATIO", "quantity": "img_per_s", "a": A, "b": Operand(value=50.0, label="50"), "high": 9.0}
    numbers = verdict(evidence(lines("a", [1, 1]), results=tmp_path), **part).findings[0].numbers
    assert numbers["df"] == pytest.approx(count - 1)


@pytest.mark.parametrize("swapped", [False, True])
def test_training_seeds_beside_a_stated_number_have_the_noise_of_their_mean(swapped):
    means, number = [4.0, 4.4, 4.9], Operand(value=2.0, label="2")
    found = evidence(*(lines(f"a-{seed}", spread(mean, 0.01)) for seed, mean in enumerate(means)))
    sides = {"a": number, "b": rows_of(recipe="a")} if swapped else {"a": rows_of(recipe="a"), "b": number}
    numbers = verdict(found, rule="RATIO", metric="fd", seeds=3, high=9.0, **sides).findings[0].numbers
    mean, error = statistics.fmean(means), stats.sem(means)
    value, half = (2 / mean, 2 * error / mean**2) if swapped else (mean / 2, error / 2)
    half *= stats.t.ppf(0.995, 2)
    assert (numbers["low"], numbers["high"]) == pytest.approx((value - half, value + half))


NO_NFE = Operand(published="table4-header-xs-params")


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (LT | {"b": Operand(value=5.0, label="twice ours")}, "no published number for twice ours"),
        (RATIO | {"quantity": "nfe", "b": NO_NFE}, "no number of evaluations is printed of "),
    ],
)
def test_a_comparison_with_what_is_no_number_is_open_and_says_so(part, reason):
    found = verdict(evidence(lines("a", spread(4.0, 0.1))), **part)
    assert found.outcome == OPEN
    assert found.findings[0].evidence.startswith(reason)


def test_a_value_of_0_and_a_log_without_the_metric_decide_nothing(tmp_path):
    found = evidence(lines("a", [0.0, 0.0]), lines("b", [0.0, 0.0]), lines("c", spread(2.0, 0.1)))
    assert outcome(found, **RATIO, high=1.0) == OPEN
    assert outcome(found, **RATIO | {"b": Operand(run="c")}, high=1.0) == "supported"


YES, NO = Finding("supported", "", {"gain": 1}), Finding("contradicted", "", {"gain": -1})
TIE, ABSENT = Finding(OPEN, "", {"gain": 0}), Finding(OPEN, "no measurement")


@pytest.mark.parametrize(
    ("findings", "ties", "expected"),
    [
        ([YES, YES], 0, "supported"),
        ([YES, NO, ABSENT], 0, "contradicted"),
        ([YES, TIE], 0, OPEN),
        ([YES, TIE], 1, "supported"),
        ([YES, ABSENT], 1, OPEN),
        ([TIE, TIE], 2, OPEN),
    ],
)
def test_combination_of_comparisons(findings, ties, expected):
    assert combined(findings, ties) == expected


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ({"rule": "LT", "a": A, "b": Operand(published="table1-gdd-fid")}, "no published number 'table1-gdd-fid'"),
        ({"rule": "LT", "a": rows_of(method="sid"), "b": B}, "matches a, b"),
        ({"rule": "LT", "a": A}, "missing .* 'b'"),
        ({"rule": "REACHES", "a": A, "images": 5}, "level"),
        ({"rule": "REACHES", "a": A, "level": B}, "images"),
    ],
)
def test_a_faulty_comparison_ends_with_the_id_of_its_claim(part, fault):
    found = evidence(lines("a", spread(1, 0.1), "fid"), lines("b", spread(1, 0.1), "fid"))
    assert refused(fault, outcome, found, **part).where.startswith("claims: X")


PRINTED = Operand(published="table1-sida-a1.0-fid")


def tick(**values):
    return {"nimg": 1, "img_per_s": 100.0, **values}


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (LT | {"metric": "kid"}, "metric 'kid' of run 'a' was not measured"),
        (LT | {"metric": "other"}, "not decided: run 'a': its feature network or reference has no digest"),
        (REACHES | {"metric": "fid", "a": PRINTED, "images": 9, "level": B}, "no run here of table1-sida-a1.0-fid"),
        (REACHES | {"b": B, "level": Operand(run="low")}, "b, NFE 2 never reaches fd 1 (low)"),
        (REACHES | {"a": Operand(run="c"), "b": B}, "no training log of run 'c'"),
        (QUANTITY | {"quantity": "memory_mb"}, "the training log of run 'a' has no 'memory_mb'"),
        (QUANTITY | {"quantity": "img_per_s", "a": Operand(run="c")}, "no training log of run 'c'"),
        (QUANTITY | {"quantity": "img_per_s"}, "a single record does not show the noise"),
        (QUANTITY | {"quantity": "nfe", "a": rows_of(method="sid")}, "method sid names rows of different NFE"),
        (LT | {"equal_images": True}, "no evaluation after equally many images of a, b"),
    ],
)
def test_an_open_comparison_gives_its_reason(tmp_path, part, reason):
    curve(tmp_path, "a", [(0, 9.0), (1000, 6.0), (2000, 5.0), (3000, 4.0)])
    curve(tmp_path, "b", [(0, 9.0), (1500, 6.0), (2500, 5.0)])
    curve(tmp_path, "low", [(1500, 6.0)])
    log(tmp_path, "a", "train.jsonl", [tick(), tick()])
    log(tmp_path, "b", "train.jsonl", [tick()] * 5)
    log(tmp_path, "c", "train.jsonl", [])
    rows = [lines(run, spread(mean, 0.01)) for run, mean in (("a", 4.0), ("b", 5.0), ("low", 1.0), ("c", 5.0))]
    rows += [lines(run, spread(4.0, 0.01), "other", settings="frechet extractor=vgg16") for run in ("a", "b")]
    rows = [[dataclasses.replace(line, nfe=1 + (line.run == "b")) for line in of_run] for of_run in rows]
    found = verdict(evidence(*rows, results=tmp_path), **part).findings[0]
    assert found.outcome == OPEN
    assert found.evidence.startswith(reason)
    assert not found.numbers


def test_ends_of_an_interval_on_its_bounds_are_within_and_p_is_of_the_nearer_bound():
    for (low, high), bounds, expected in (
        ((1.0, 2.0), (1.0, 2.0), "supported"),
        ((0.999, 2.0), (1.0, 2.0), OPEN),
        ((1.0, 2.001), (1.0, 2.0), OPEN),
        ((0.5, 1.0), (1.0, 2.0), OPEN),
        ((0.5, 0.999), (1.0, 2.0), "contradicted"),
        ((2.0, 3.0), (1.0, 2.0), OPEN),
        ((2.001, 3.0), (1.0, 2.0), "contradicted"),
    ):
        middle = (low + high) / 2
        interval = Interval(middle, 0.1, 9.0, low, high)
        found = finding_of(interval, "x", {"a": 7}, *bounds)
        assert found.outcome == expected
        assert found.numbers["p"] == pytest.approx(max(map(interval.p_value, bounds)))
        assert {key: found.numbers[key] for key in ("a", "low", "high", "df")} == {
            "a": 7,
            "low": low,
            "high": high,
            "df": 9,
        }
    # Without noise there is no p, and without a bound, too.
    exact = finding_of(Interval(1.5, 0.0, 9.0, 1.5, 1.5), "x", {})
    assert (exact.outcome, exact.evidence) == ("supported", "x, 95 % interval 1.5 to 1.5")
    assert "p" not in exact.numbers
    assert "p" not in finding_of(Interval(1.5, 0.1, 9.0, 1.4, 1.6), "x", {}, -math.inf).numbers


def test_a_small_p_is_printed_as_a_bound():
    words = [
        finding_of(Interval(value, 0.1, 1e9, 0.0, 1.0), "x", {}).evidence.partition(" (p ")[2] for value in (0.4, 0.2)
    ]
    assert words == ["< 0.0001)", f"{2 * stats.norm.sf(2):.2g})"]


def test_reaches_tells_its_numbers(tmp_path):
    """A falls to 6 at 8,000 images and B at 40,000; three standard deviations of 0.05 are less than one step of 0.5."""
    curve(tmp_path, "b", [(n * 1000, 10 - n * 0.1) for n in range(4, 44, 4)], 1e-6)
    curve(tmp_path, "a", [(n * 1000, 10 - n * 0.5) for n in range(1, 20)], 0.05)
    found = evidence(lines("a", [1, 1]), lines("b", [1, 1]), lines("t", spread(6.0, 1e-6)), results=tmp_path)
    (one,) = verdict(found, **REACHES, b=B, times=4.0).findings
    assert one.numbers == {"level": 6.0, "images_b": 40000, "images": 8000, "claimed": 10000.0, "ratio": 5.0}
    assert one.evidence == (
        "fd 6 (its lowest value): b after 40,000 images, "
        "a after 8,000 of 19,000 (with noise after 7,000 to 9,000 images), claimed within 10,000"
    )
    (two,) = verdict(found, **REACHES, level=Operand(run="t"), images=8000).findings
    assert (two.outcome, two.numbers) == (OPEN, {"level": pytest.approx(6.0), "images": 8000, "claimed": 8000.0})
    # The last evaluation before the earliest crossing lies behind 6,999 images, and on 7,000.
    for images, expected in ((6999, "contradicted"), (7000, OPEN), (8999, OPEN), (9000, "supported")):
        assert outcome(found, **REACHES, level=Operand(run="t"), images=images) == expected


def test_an_untrained_network_at_the_level_has_needed_no_images(tmp_path):
    curve(tmp_path, "a", [(0, 5.0), (1000, 4.0)])
    found = evidence(lines("a", [1, 1]), lines("t", spread(6.0, 1e-6)), results=tmp_path)
    (one,) = verdict(found, **REACHES, level=Operand(run="t"), images=1000).findings
    assert (one.outcome, one.numbers["images"]) == ("supported", 0)
    assert "ratio" not in one.numbers


def test_numbers_of_evaluations_are_exact_and_labels_are_the_sheets():
    rows = [lines(run, spread(4.0, 0.012)) for run in "ab"]
    rows[1] = [dataclasses.replace(line, nfe=35) for line in rows[1]]
    sheet = [SheetRow("a", "student", "sid", "x"), SheetRow("b", "teacher", "teacher", "x")]
    found = made([line for row in rows for line in row], sheet)
    (one,) = verdict(found, **QUANTITY | {"a": B, "b": A}, quantity="nfe", low=35, high=35).findings
    assert one.outcome == "supported"
    assert one.evidence.startswith("nfe 35 (teacher, NFE 35) against 1 (student); ratio 35.000, claimed 35 to 35, 99 %")
    assert verdict(made(found.measurements.rows, []), **LT).findings[0].evidence.startswith("fd 4.000 ± 0.012 (a) ")


@pytest.mark.parametrize(("count", "more"), [(9, ""), (10, " and 1 more"), (1010, " and 1,001 more")])
def test_at_most_nine_of_the_rows_that_match_are_named(count, more):
    sheet = [SheetRow(f"r{number}", "x", "sid", "x") for number in range(count)]
    measured = [line for row in sheet for line in lines(row.run, [1.0])]
    names = ", ".join(f"r{number}" for number in range(9))
    refused(f"matches {names}{more}; pick one run", made(measured, sheet).side, rows_of(method="sid"), "fd")
