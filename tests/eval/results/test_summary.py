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


@pytest.fixture
def fault(tmp_path):
    """The error of a file with these lines."""

    def read(lines, columns=MEASUREMENT_COLUMNS):
        with pytest.raises(UserError) as error:
            load_measurements(write_csv(tmp_path / "m.csv", lines, columns))
        return error.value

    return read


def test_duplicate_rows_and_gaps_between_trials_are_refused(fault, lines):
    assert "run 'data', trial 0, metric 'accuracy'" in fault([*lines, lines[5]]).fault
    kept = [line for line in lines if not (line["run"] == "sid-a1.2" and line["trial"] == 1)]
    assert "run 'sid-a1.2', metric 'fd': trial 1 is missing" in fault(kept).fault


@pytest.mark.parametrize(
    ("column", "text", "word"),
    [
        *(("value", bad, f"metric 'fd' of run 'data', trial 0 is {bad}") for bad in ("nan", "inf", "-inf")),
        ("value", "4.1x", "4.1x"),
        ("trial", "-1", "-1"),
        ("n", "many", "many"),
        ("n", "", "number"),
        ("nfe", "1.5", "1.5"),
    ],
)
def test_cells_of_the_wrong_type_name_line_and_column(fault, lines, column, text, word):
    lines[0][column] = text
    error = fault(lines)
    assert error.place.endswith("m.csv:2" if "trial 0" in word else f"m.csv:2: {column}")
    assert word in error.fault


def test_missing_column_and_cut_off_line(tmp_path, fault, lines):
    assert "'protocol'" in fault(lines, [name for name in MEASUREMENT_COLUMNS if name != "protocol"]).fault
    path = write_csv(tmp_path / "cut.csv", lines)
    path.write_text(path.read_text()[:-40])
    for file, word in ((path, "cut off"), (tmp_path / "absent.csv", "no such measurements")):
        with pytest.raises(UserError, match=word):
            load_measurements(file)


@pytest.mark.parametrize(
    ("run", "metric", "word"),
    [
        ("sida-a1", "fd", "did you mean 'sida-a1.0'"),
        ("data", "fdd", "did you mean 'fd'"),
        ("sid-a1.2", "is", "trial 3 has no metric 'is'"),
    ],
)
def test_what_was_not_measured_is_named_when_it_is_used(tmp_path, lines, run, metric, word):
    kept = [x for x in lines if not (x["run"] == "sid-a1.2" and x["trial"] == 3 and x["metric"] == "is")]
    measured = load_measurements(write_csv(tmp_path / "m.csv", kept))
    with pytest.raises(UserError) as error:
        measured.estimate(run, metric, "layout")
    assert error.value.place == "layout"
    assert word in error.value.fault


def test_rule_eq_has_the_published_tolerances():
    numbers = load_published()
    fid = numbers["table1-sida-a1.0-fid"]  # 1.516 ± 0.010
    tolerance = max(3 * ((0.02**2 + 0.010**2) / 10) ** 0.5, 0.01516)
    assert agreement(Estimate(1.520, 0.02, 10), fid).tolerance == pytest.approx(tolerance)
    for mean, outcome in ((1.516 + 1.01 * tolerance, "worse"), (1.516 - 1.01 * tolerance, "better")):
        assert agreement(Estimate(mean, 0.02, 10), fid).outcome == outcome
    teacher = numbers["table1-vp-edm-fid"]  # 1.97, no spread: two per cent
    assert agreement(Estimate(2.0, 0.001, 10), teacher).tolerance == pytest.approx(0.02 * 1.97)
    for mean, outcome in ((0.75, "agrees"), (0.7501, "better"), (0.7299, "worse")):
        assert agreement(Estimate(mean, 0.001, 10), numbers["table3-sid-a1.2-precision"]).outcome == outcome


@settings(max_examples=50)
@given(st.floats(0.5, 3.0), st.floats(0.0, 0.5), st.integers(1, 20))
def test_a_number_always_agrees_with_itself(shift, std, trials):
    for number in list(load_published().values())[:40]:
        same = Estimate(number.value, std if trials > 1 else None, trials)
        assert agreement(same, number).outcome == "agrees"
        assert agreement(Estimate(number.value + shift, 0.0, 10), number).difference == pytest.approx(shift)
