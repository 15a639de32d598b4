"""Columns of effects, with intervals over training seeds, and columns about the tuning of a row's recipe."""

import dataclasses

import pytest
import yaml

from eval.effects.contrast import difference
from eval.results.summary import Measurements
from eval.tables import build_table, load_layout, to_csv, to_html, to_latex, to_markdown
from eval.tables.cells import effect_text
from tests.eval.synthetic_output import csv_rows
from tests.refused import refused

# The preset's runs have one seed each; two runs stand for two seeds here.
SID = {"label": "SiD", "family": "One Step", "run": "sid-a1.0", "pool": ["sid-a1.2"]}
SIDA = {"label": "SiDA", "family": "One Step", "run": "sida-a1.0", "pool": ["sid2a-a1.0"]}
COLUMNS = [
    {"head": "Model", "field": "label"},
    {"head": "FD", "metric": "fd", "decimals": 2},
    {"head": "Δ FD to SiD", "metric": "fd", "decimals": 2, "effect": {"against": "SiD"}},
    {"head": "Δ in std", "metric": "fd", "effect": {"against": "sid-a1.0", "show": "standardised"}},
]


@pytest.fixture
def table(measured, runs, tmp_path):
    """Builds a table of rows and columns, without a measurement."""

    def build(rows, columns=COLUMNS, mode="measured", without=""):
        path = tmp_path / "layout.yaml"
        path.write_text(yaml.safe_dump({"columns": columns, "rows": rows}, allow_unicode=True))
        kept = [row for row in measured.rows if row.run != without]
        return build_table(load_layout(path), Measurements(kept), runs, mode=mode)

    return build


def test_an_effect_is_the_difference_with_its_interval_in_every_form(table, measured):
    made = table([SID, SIDA, {**SIDA, "label": "SiDA alone", "against": "-"}])
    means = [[measured.estimate(run, "fd").mean for run in (row["run"], *row["pool"])] for row in (SIDA, SID)]
    expected = difference({"t": means[0]}, {"t": means[1]})
    text = f"{expected.value:+.2f} [{expected.low:.2f}, {expected.high:.2f}]".replace("-", "−")
    assert text.startswith("−1.")
    assert [row.cells[2].plain for row in made.rows] == ["–", text, "–"]
    assert made.rows[1].cells[3].plain == f"{expected.standardised:+.1f}".replace("-", "−")
    assert f"| {text} |" in to_markdown(made)
    assert f">{text}<" in to_html(made)
    assert text.replace("−", "$-$") in to_latex(made)
    (record,) = [r for r in csv_rows(to_csv(made)) if r["column"] == "fd_difference" and r["effect"]]
    assert record["run"] == "sida-a1.0 sid2a-a1.0"
    assert record["effect_against"] == "SiD"
    numbers = [float(record[f"effect{end}"]) for end in ("", "_low", "_high", "_df", "_standardised")]
    assert numbers == pytest.approx([expected.value, expected.low, expected.high, expected.df, expected.standardised])
    assert any("Welch" in note for note in made.notes)


def test_an_average_over_teachers_that_differ_is_marked():
    alike = difference({"a": [1.0, 1.1], "b": [2.0, 2.1]}, {"a": [2.0, 2.1], "b": [3.0, 3.1]})
    apart = difference({"a": [1.0, 1.1], "b": [4.0, 4.1]}, {"a": [2.0, 2.1], "b": [3.0, 3.1]})
    assert [effect_text(effect, 2).endswith("] ≠") for effect in (alike, apart)] == [False, True]


def test_labels_may_repeat_in_other_families(table):
    other = {**SID, "family": "Elsewhere", "run": "teacher-nfe35", "pool": ["teacher-nfe19"]}
    rows = [SID, SIDA, other, {**SIDA, "family": "Elsewhere"}]
    cells = [row.cells[2].plain for row in table(rows, COLUMNS[:3]).rows]
    assert cells[1] != cells[3]
    assert cells[0] == cells[2] == "–"


def test_what_is_not_measured_has_no_effect(table):
    for absent in ("sid2a-a1.0", "sid-a1.2"):
        made = table([SID, SIDA], without=absent)
        assert made.rows[1].cells[2].plain == "not measured"
    # Effects are of measurements alone.
    refused("needs mode measured, this is mode paper", table, [SID, SIDA], mode="paper")


def test_faulty_effects_are_one_line(table):
    def faulty(told, *rows, **column):
        refused(told, table, rows, [COLUMNS[0], COLUMNS[1], {**COLUMNS[2], **column}])

    faulty(r"columns\[2\].effect.against: .*'SiDD'.*mean 'SiD'", SID, SIDA, effect={"against": "SiDD"})
    faulty("several rows are 'SiD'", SID, SIDA, SID)
    faulty("'SiDA' against 'SiD': one training seed of A", SID, {**SIDA, "pool": []})
    faulty("effect: needs a metric and no direction", SID, SIDA, direction="lower")
    faulty(r"effect.*(agianst|against)", SID, SIDA, effect={"agianst": "SiD"})


def test_a_guests_values_that_are_not_comparable_are_left_out(measured, runs, tmp_path):
    other = [dataclasses.replace(row, reference_sha256="f" * 64) if row.run in ("sida-a1.0", "sid2a-a1.0") else row
             for row in measured.rows]  # fmt: skip
    path = tmp_path / "layout.yaml"
    for guest in (True, False):
        path.write_text(yaml.safe_dump({"columns": COLUMNS, "rows": [SID, {**SIDA, "guest": guest}]}))
        if not guest:
            refused("not comparable", build_table, load_layout(path), Measurements(other), runs)
            continue
        made = build_table(load_layout(path), Measurements(other), runs)
        assert [cell.plain for cell in made.rows[1].cells] == ["SiDA", "–", "–", "–"]
        assert made.rows[0].cells[1].plain != "–"
        assert any("SiDA" in note and "reference" in note for note in made.notes)


TRIALS = """method,teacher,kimg,trial,fd,fd_end,diverged,seconds,settings
sid,t,3,1,4.0,4.0,,6,"{}"
sid,t,3,2,8.0,99,yes,6,"{}"
sid,t,3,3,6.0,6.0,,6,"{}"
sid,t,3,edge-lr,1.0,1.0,,6,"{}"
sid,t,12,1,3.0,3.0,,30,"{}"
sid,t,12,3,3.0,3.0,,42,"{}"
"""
TUNING_COLUMNS = [
    {"head": "Model", "field": "label"},
    {"head": "FD", "metric": "fd"},
    *(
        {"head": name, "field": name}
        for name in ("settings", "settings_range", "settings_diverged", "seconds_per_kimg")
    ),
]


@pytest.fixture
def tuned_table(measured, runs, tmp_path):
    """Builds a table whose first row has a tuned recipe."""

    def build(**layout):
        rows = [{"run": "sid-a1.0"}, {"run": "sida-a1.0"}]
        (tmp_path / "layout.yaml").write_text(yaml.safe_dump({"columns": TUNING_COLUMNS, "rows": rows, **layout}))
        tuned = dataclasses.replace(runs["sid-a1.0"], recipe="sid-t")
        return build_table(load_layout(tmp_path / "layout.yaml"), measured, {**runs, tuned.run: tuned})

    return build


def test_a_row_shows_the_tuning_of_its_recipe(tuned_table, tmp_path):
    (tmp_path / "trials.csv").write_text(TRIALS)
    tuned, other = tuned_table(trials_of="trials.csv").rows
    # Beyond the edge is a setting, but none of those drawn equally for all methods.
    assert [cell.plain for cell in tuned.cells[2:]] == ["4", "4.0 / 6.0 / 8.0", "1 of 3", "3.0"]
    assert [cell.plain for cell in other.cells[2:]] == [""] * 4
    # Faults name the file and the key.
    refused(r"layout\.yaml.*trials_of", tuned_table)
    refused(r"absent\.csv", tuned_table, trials_of="absent.csv")
    (tmp_path / "trials.csv").write_text(TRIALS.replace("diverged", "ended"))
    refused(r"trials\.csv.*'diverged'", tuned_table, trials_of="trials.csv")
