"""Reading measurements.csv: means and spreads, and one clear line for every fault."""

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.results.published import agreement, load_published
from eval.results.summary import MEASUREMENT_COLUMNS, Estimate, load_measurements
from sida.errors import UserError
from tests.eval.synthetic_output import measurement_lines, write_csv


@pytest.fixture
def lines():
    return list(measurement_lines(trials=4))


def test_estimates_are_mean_and_sample_std_over_trials(tmp_path, lines):
    measured = load_measurements(write_csv(tmp_path / "m.csv", lines))
    values = [line["value"] for line in lines if line["run"] == "sida-a1.0" and line["metric"] == "fd"]
    estimate = measured.estimate("sida-a1.0", "fd")
    assert estimate.trials == 4
    assert estimate.mean == pytest.approx(statistics.fmean(values), rel=1e-15)
    assert estimate.std == pytest.approx(statistics.stdev(values), rel=1e-15)
    assert measured.nfe("teacher-nfe35") == 35
    assert measured.nfe("data") is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_estimate_ignores_the_order_of_trials(values):
    one, other = Estimate.of(values), Estimate.of(values[::-1])
    assert one.mean == pytest.approx(other.mean, rel=1e-12, abs=1e-9)
    assert one.std == pytest.approx(other.std, rel=1e-9, abs=1e-9)


def test_a_single_trial_has_no_spread():
    assert Estimate.of([3.0]) == Estimate(3.0, None, 1)
    assert Estimate.of([3.0]).standard_error is None


def test_duplicate_rows_are_refused(tmp_path, lines):
    path = write_csv(tmp_path / "m.csv", [*lines, lines[5]])
    with pytest.raises(UserError, match=r"m\.csv: run 'data', trial 0, metric 'accuracy' occurs twice"):
        load_measurements(path)


def test_a_gap_between_trials_is_refused(tmp_path, lines):
    kept = [line for line in lines if not (line["run"] == "sid-a1.2" and line["trial"] == 1)]
    with pytest.raises(UserError, match=r"run 'sid-a1\.2', metric 'fd': trial 1 is missing"):
        load_measurements(write_csv(tmp_path / "m.csv", kept))


def test_a_trial_without_one_metric_is_named_when_it_is_used(tmp_path, lines):
    kept = [x for x in lines if not (x["run"] == "sid-a1.2" and x["trial"] == 3 and x["metric"] == "is")]
    measured = load_measurements(write_csv(tmp_path / "m.csv", kept))
    measured.estimate("sid-a1.2", "fd")
    with pytest.raises(UserError, match=r"layout: run 'sid-a1\.2': trial 3 has no metric 'is'"):
        measured.estimate("sid-a1.2", "is", "layout")


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_values_that_are_not_finite_are_refused_with_their_line(tmp_path, lines, bad):
    lines[2]["value"] = bad
    with pytest.raises(UserError, match=rf"m\.csv:4: metric 'is' of run 'data', trial 0 is {bad}"):
        load_measurements(write_csv(tmp_path / "m.csv", lines))


@pytest.mark.parametrize(("column", "text"), [("value", "4.1x"), ("trial", "-1"), ("n", "many"), ("nfe", "1.5")])
def test_cells_of_the_wrong_type_name_line_and_column(tmp_path, lines, column, text):
    lines[0][column] = text
    with pytest.raises(UserError, match=rf"m\.csv:2: {column}: .*{text}"):
        load_measurements(write_csv(tmp_path / "m.csv", lines))


def test_missing_column_and_cut_off_line(tmp_path, lines):
    columns = [name for name in MEASUREMENT_COLUMNS if name != "protocol"]
    with pytest.raises(UserError, match="column 'protocol' is missing"):
        load_measurements(write_csv(tmp_path / "m.csv", lines, columns))
    path = write_csv(tmp_path / "cut.csv", lines)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UserError, match="cut off"):
        load_measurements(path)
    with pytest.raises(UserError, match="no such measurements"):
        load_measurements(tmp_path / "absent.csv")


def test_unknown_run_and_metric_get_a_suggestion(tmp_path, lines):
    measured = load_measurements(write_csv(tmp_path / "m.csv", lines))
    with pytest.raises(UserError, match=r"run 'sida-a1' has no measurement .*did you mean 'sida-a1\.0'"):
        measured.estimate("sida-a1", "fd")
    with pytest.raises(UserError, match=r"metric 'fdd' was not measured .*did you mean 'fd'"):
        measured.estimate("data", "fdd")


def test_rule_eq_has_the_published_tolerances():
    numbers = load_published()
    fid = numbers["table1-sida-a1.0-fid"]  # 1.516 ± 0.010
    three_errors = 3 * ((0.02**2 + 0.010**2) / 10) ** 0.5
    assert agreement(Estimate(1.520, 0.02, 10), fid).tolerance == pytest.approx(max(three_errors, 0.01516))
    limit = 1.01 * max(three_errors, 0.01516)
    assert agreement(Estimate(1.516 + limit, 0.02, 10), fid).outcome == "worse"
    assert agreement(Estimate(1.516 - limit, 0.02, 10), fid).outcome == "better"
    teacher = numbers["table1-vp-edm-fid"]  # 1.97, no spread: two per cent
    assert agreement(Estimate(2.0, 0.001, 10), teacher).tolerance == pytest.approx(0.02 * 1.97)
    precision = numbers["table3-sid-a1.2-precision"]
    assert agreement(Estimate(0.75, 0.001, 10), precision).outcome == "agrees"
    assert agreement(Estimate(0.7501, 0.001, 10), precision).outcome == "better"
    assert agreement(Estimate(0.7299, 0.001, 10), precision).outcome == "worse"


@settings(max_examples=50)
@given(st.floats(0.5, 3.0), st.floats(0.0, 0.5), st.integers(1, 20))
def test_a_number_always_agrees_with_itself(shift, std, trials):
    for number in list(load_published().values())[:40]:
        same = Estimate(number.value, std if trials > 1 else None, trials)
        assert agreement(same, number).outcome == "agrees"
        assert agreement(Estimate(number.value + shift, 0.0, 10), number).difference == pytest.approx(shift)
