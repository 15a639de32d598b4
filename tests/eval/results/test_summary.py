"""Reading measurements.csv, published numbers with their references, and results as DataFrames."""

import re
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.results import load
from eval.results.logs import read_evaluations
from eval.results.published import agreement, bibliography, cited_label, load_published, references
from eval.results.summary import MEASUREMENT_COLUMNS, Estimate, load_measurements
from eval.tables.build import make_table
from eval.tables.latex import to_latex
from sida.files.atomic import write_hashed_json
from tests.eval.synthetic_output import measurement_lines, write_csv, write_preset
from tests.refused import refused


@pytest.fixture
def lines():
    return list(measurement_lines(trials=4))


def test_estimates_are_mean_and_sample_std_over_trials(lines, tmp_path):
    measured = load_measurements(write_csv(tmp_path / "m.csv", lines))
    values = [line["value"] for line in lines if line["run"] == "sida-a1.0" and line["metric"] == "fd"]
    estimate = measured.estimate("sida-a1.0", "fd")
    assert estimate.trials == 4
    assert estimate.mean == pytest.approx(statistics.fmean(values), rel=1e-15)
    assert estimate.std == pytest.approx(statistics.stdev(values), rel=1e-15)
    assert measured.nfe("teacher-nfe35") == 35
    assert measured.nfe("data") is None
    # A single trial has no spread.
    assert Estimate.of([3.0]) == Estimate(3.0, None, 1)
    assert Estimate.of([3.0]).standard_error is None


@pytest.fixture
def fault(tmp_path):
    """The error of a file with these lines."""

    def read(lines, columns=MEASUREMENT_COLUMNS):
        error = refused("", load_measurements, write_csv(tmp_path / "m.csv", lines, columns))
        return error

    return read


def test_duplicate_rows_and_gaps_between_trials_are_refused(fault, lines):
    assert "run 'data', trial 0, metric 'accuracy'" in fault([*lines, lines[5]]).fault
    kept = [line for line in lines if not (line["run"] == "sid-a1.2" and line["trial"] == 1)]
    assert "run 'sid-a1.2', metric 'fd': trial 1 is missing" in fault(kept).fault


@pytest.mark.parametrize(
    ("column", "text", "word"),
    [
        ("value", "nan", "metric 'fd' of run 'data', trial 0 is nan"),
        ("value", "4.1x", "4.1x"),
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
        refused(word, load_measurements, file)


def test_what_was_not_measured_is_named_when_it_is_used(tmp_path, lines):
    kept = [x for x in lines if not (x["run"] == "sid-a1.2" and x["trial"] == 3 and x["metric"] == "is")]
    estimate = load_measurements(write_csv(tmp_path / "m.csv", kept)).estimate
    refused("^layout: .*did you mean 'sida-a1.0'", estimate, "sida-a1", "fd", "layout")
    refused("^layout: .*did you mean 'fd'", estimate, "data", "fdd", "layout")
    refused("^layout: .*trial 3 has no metric 'is'", estimate, "sid-a1.2", "is", "layout")


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


NUMBERS = list(load_published().values())[:40]


@settings(max_examples=50)
@given(st.floats(0.5, 3.0), st.floats(0.0, 0.5), st.integers(1, 20))
def test_a_number_always_agrees_with_itself(shift, std, trials):
    for number in NUMBERS:
        same = Estimate(number.value, std if trials > 1 else None, trials)
        assert agreement(same, number).outcome == "agrees"
        assert agreement(Estimate(number.value + shift, 0.0, 10), number).difference == pytest.approx(shift)


def test_frames_hold_the_numbers_of_the_files(tmp_path):
    folder = write_preset(tmp_path / "p")
    found = load(folder)
    known = load_measurements(folder / "measurements.csv")
    run, metric = known.runs[0], known.metrics[0]
    mean = found.measurements.query("run == @run and metric == @metric").value.mean()
    assert mean == pytest.approx(known.estimate(run, metric).mean, rel=1e-12)
    assert len(found.measurements) == len(known.rows)
    curve = found.curves.query("run == 'sid-a1.0' and log == 'evaluation' and quantity == 'fd'")
    points = read_evaluations(folder / "students/sid-a1.0/evaluations.jsonl", "fd")
    assert list(zip(curve.nimg, curve.value)) == [(point.nimg, point.value) for point in points]
    assert found.claims.empty
    write_hashed_json(folder / "claims.json", {"claims": [{"id": "X-1", "verdict": "supported"}]})
    assert list(load(folder).claims.verdict) == ["supported"]
    refused(r"measurements\.csv", load, tmp_path)


@pytest.mark.parametrize(
    ("label", "name", "key"),
    [
        ("DMD2 (Yin et al., 2024a)", "DMD2", "yin2024dmd2"),
        ("G-distill (Meng et al., 2023) (w=0.3)", "G-distill (w=0.3)", "meng2022guided"),
        ("SiD2A, α=1.2 (ours)", "SiD2A, α=1.2 (ours)", "zhou2024sida"),
        ("GDD-I", "GDD-I", "zheng2024gdd"),
    ],
)
def test_labels_lose_their_citation_and_get_a_key(label, name, key):
    shown, entry = cited_label(label)
    assert (shown, entry.key) == (name, key)


def test_entries_are_whole_and_citations_unique():
    entries = references()
    cited = [text for entry in entries.values() for text in entry.cited]
    assert len(cited) == len(set(cited))
    for key, entry in entries.items():
        assert entry.bibtex.count("{") == entry.bibtex.count("}"), key
        assert re.search(r"title = .*year = \{\d{4}\}", entry.bibtex, re.DOTALL), key
        assert "names =" not in entry.bibtex
    # A label of nobody has no entry.
    assert cited_label("Class mean and noise") == ("Class mean and noise", None)
    # An unknown key is refused.
    refused("nobody2024", bibliography, ["nobody2024"])
    # Each row of the papers tables has an entry.
    labels = {p.row_label for p in load_published().values() if re.fullmatch(r"table[1-7]", p.source)}
    without = [label for label in labels if cited_label(label)[1] is None]
    assert all(label.startswith("column header") for label in without)


def test_a_table_with_cite_compiles_alone_with_its_references():
    tex = to_latex(make_table("printed-imagenet256", mode="paper"))
    assert r"IMM~\cite{zhou2025imm}" in tex
    assert tex.index(r"\bibitem{zhou2025imm}") < tex.index(r"\begin{table}")
    assert tex.count(r"\bibitem") == 3
