"""Tables of measurements: content, bold rule, faults; as Markdown, HTML and LaTeX, which compiles."""

import dataclasses
import math
import re
import shutil
import statistics
import subprocess

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sida.config.lookup import ROOT
from sida.eval.report.paper import missing_latex
from sida.eval.results.bibliography import bibliography
from sida.eval.results.conditions import Planned
from sida.eval.results.identity import Identity
from sida.eval.results.measurements import Measurements, load_measurements
from sida.eval.results.published import load_published
from sida.eval.results.retraining import Retraining
from sida.eval.results.sheet import SheetRow
from sida.eval.tables.bold import _is_about
from sida.eval.tables.build import build_table, make_table, table_paths, write_table
from sida.eval.tables.cells import TableLine, nfe_text, unlike
from sida.eval.tables.hyperparameters import _text
from sida.eval.tables.latex import cited_keys, escape, latex_cell, to_latex
from sida.eval.tables.layout import BoldSpec, RowSpec, TableSources, load_layout, table_layout
from sida.eval.tables.model import Cell, Column, Row, Table
from sida.eval.tables.render import page_of, to_csv, to_html, to_markdown, to_terminal
from tests.eval.claims.evidence import lines, spread
from tests.eval.synthetic_output import TRUTH, csv_rows, measurement_lines, write_csv
from tests.refused import refused

MAIN = ROOT / "config" / "tables" / "main.yaml"
METRICS = ("fd", "is", "precision", "recall", "accuracy", "fd_pixel")
#: Networks that are the same when they are trained again.
STILL = Retraining(std=dict.fromkeys(METRICS, 0.0), source="made up")


@pytest.fixture(scope="module")
def table(measured, runs):
    return build_table(load_layout(MAIN), measured, runs, retraining=STILL)


def layout_with(tmp_path, **changes):
    mapping = yaml.safe_load(MAIN.read_text()) | changes
    path = tmp_path / "layout.yaml"
    path.write_text(yaml.safe_dump(mapping, allow_unicode=True))
    return load_layout(path)


def test_rows_measured_against_other_files_are_refused(runs, tmp_path):
    column, what = "reference_sha256", "reference"
    lines = list(measurement_lines())
    for line in lines:
        if (line["run"], line["metric"]) == ("sida-a1.0", "recall"):
            line[column] = "99" * 32
    measured = load_measurements(write_csv(tmp_path / "m.csv", lines))
    refused(rf"'data' and 'sida-a1.0' .*recall: {what}: .* != 9999", build_table, load_layout(MAIN), measured, runs)
    # Of another protocol, they are named, and no value of the column is the best.
    for line in lines:
        line["protocol"] = line["run"]
    changed = load_measurements(write_csv(tmp_path / "m.csv", lines))
    table = build_table(load_layout(MAIN), changed, runs, retraining=STILL)
    assert any(note.startswith("Not comparable with each other in Rec.: ") and what in note for note in table.notes)
    best = {record["column"] for record in table.records if record["measured_rank"]}
    assert "recall" not in best
    assert "precision" in best


def test_a_guests_values_that_are_not_comparable_are_left_out(measured, runs, tmp_path):
    other = [dataclasses.replace(row, reference_sha256="f" * 64) if row.run == "sida-a1.0" else row
             for row in measured.rows]  # fmt: skip
    for guest in (True, False):
        rows = [{"run": "sid-a1.0"}, {"run": "sida-a1.0", "guest": guest}]
        layout = layout_with(tmp_path, rows=rows)
        if not guest:
            refused("not comparable", build_table, layout, Measurements(other), runs)
            continue
        made = build_table(layout, Measurements(other), runs)
        places = {column.head: place for place, column in enumerate(made.columns)}
        assert made.rows[1].cells[places["FD"]].plain == "–" != made.rows[0].cells[places["FD"]].plain
        assert any("SiDA" in note and "reference" in note for note in made.notes)


def test_an_optional_column_is_left_out_where_nothing_has_its_metric(tmp_path, measured, runs):
    columns = yaml.safe_load(MAIN.read_text())["columns"]
    more = [{"head": name, "metric": metric, "optional": True} for name, metric in (("A", "fd"), ("B", "fd_dinov2"))]
    for column in more[:1]:
        column["key"] = "again"
    shown = build_table(layout_with(tmp_path, columns=[*columns, *more]), measured, runs)
    assert [column.head for column in shown.columns][len(columns) :] == ["A"]


def test_the_best_printed_one_step_values_of_a_column_are_bold(table, measured, runs, tmp_path):
    bold = {
        column.head: [i for i, row in enumerate(table.rows) if row.cells[place].bold]
        for place, column in enumerate(table.columns)
    }
    assert bold["FD"] == [5]  # SiDA; the data's own 0.42 and the teacher are no candidates
    level = [i for i, row in enumerate(table.rows) if row.cells[4].rank == "level"]
    assert bold["IS"] + level == [6, 4, 5]  # not apart by ten trials
    assert bold["Rec."] == [5]
    assert bold["Model"] == []
    # Equal printed values are all bold, but not where they are all.
    columns = [
        {"head": "Model", "field": "label"},
        {"head": "IS", "metric": "is", "direction": "higher", "decimals": 0},
        {"head": "Rec.", "metric": "recall", "direction": "higher", "decimals": 1},
    ]
    table = build_table(layout_with(tmp_path, columns=columns), measured, runs, retraining=STILL)
    assert [[row.cells[place].text for row in table.rows if row.cells[place].rank] for place in (1, 2)] == [
        [],
        ["0.7"] * 2,
    ]
    assert any(note.startswith("No measured value of IS is bold") for note in table.notes)


def test_a_row_alone_is_not_the_best_of_anything(measured, runs, tmp_path):
    rows = [{"run": "sid-a1.0"}, {"run": "sida-a1.0"}]
    for count in (1, 2):
        known = Retraining(std={"fd": 0.01}, source="made up")
        table = build_table(layout_with(tmp_path, rows=rows[:count]), measured, runs, retraining=known)
        assert any(record["measured_rank"] for record in table.records) == (count > 1)


def rows_of_rank(table, rank):
    """Labels of the rows of a rank by heading of the column."""
    return {
        column.head: [row.cells[1].text for row in table.rows if row.cells[place].rank == rank]
        for place, column in enumerate(table.columns)
    }


def test_level_are_all_rows_that_the_best_does_not_beat_beyond_scatter_and_noise(measured, runs, tmp_path):
    """FD 4.5 of SiD2A beside SiDA's 4.0, each the mean of ten trials."""
    columns = [{"head": "F", "field": "family"}, {"head": "Model", "field": "label"}]
    columns += [{"head": "FD", "metric": "fd", "direction": "lower", "decimals": 3}]
    layout = layout_with(tmp_path, columns=columns)
    rows = [row for row in build_table(layout, measured, runs).rows if "teacher" not in row.cells[1].text]
    values = {row.cells[1].text: float(row.cells[2].text.replace(",", "")) for row in rows[1:]}
    first, *others = sorted(values, key=values.get)
    for std, is_near in ((0.0, lambda gap, _: gap == 0), (0.05, lambda gap, size: gap < 2.6 * 0.05 * size)):
        again = Retraining(std={"fd": std}, source="made up")
        near = {o for o in others if is_near(values[o] - values[first], math.hypot(values[o], values[first]))}
        # No value lies at the border.
        made = build_table(layout, measured, runs, retraining=again)
        assert rows_of_rank(made, "best")["FD"] == [first]
        assert {*rows_of_rank(made, "level")["FD"]} == near
        assert any(note.startswith("≈:") for note in made.notes) == bool(near)
    # Few degrees of freedom widen the scatter, so that nothing is beaten, and many seeds have their own.
    wide = build_table(layout, measured, runs, retraining=Retraining(std={"fd": 0.05}, source="made up", df=1))
    assert not any(record["measured_rank"] for record in wide.records)
    assert "No measured value of FD is bold: the best one beats none beyond noise and retraining." in wide.notes


@pytest.mark.parametrize(
    ("rival", "value", "std", "rank"),
    [("sida-a1.0", 1.616, 1e-4, ""), ("sida-a1.0", 1.616, 0.0213, "level"), ("vp-edm", 2.1, 1e-4, "")],
)
def test_a_printed_rival_has_the_scatter_of_training_too(tmp_path, rival, value, std, rank):
    """SiDA's 1.516 ± 0.010 beside 1.616 of one training: 2.9 times its own scatter, 2.1 times that of both.

    EDM's 1.97 without a printed ± has no noise of trials.
    """
    rows = [{"run": "mine"}, {"run": "worse"}, {"label": "SiDA", "published": f"table1-{rival}-{{metric}}", "nfe": "1"}]
    columns = [{"head": "Model", "field": "label"}, {"head": "FID", "metric": "fid", "direction": "lower"}]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"columns": columns, "rows": rows, "bold": {}}))
    known = {"reference_sha256": "a" * 64, "extractor_sha256": "b" * 64}
    known["settings"] = "frechet cov_ddof=0 extractor=inception"
    values = {"mine": [value, value + 1e-4], "worse": [9.0, 9.0001]}
    measured = Measurements([line for run in values for line in lines(run, values[run], "fid", **known)])
    runs = {run: SheetRow(run, run, "sida", checkpoint="x") for run in values}
    again = Retraining(std={"fid": std}, source="made up")
    table = build_table(load_layout(tmp_path / "t.yaml"), measured, runs, "audit", again)
    assert [record["measured_rank"] for record in table.records if record["run"]] == [rank, ""]


@pytest.mark.parametrize(("of_student", "ranks"), [("t", ["", "best"]), ("u", ["", ""])])
def test_a_teacher_beside_its_own_student_is_one_network_without_scatter(tmp_path, of_student, ranks):
    """4.0 and 4.65 are 2.8 times the student's scatter of 5 % apart, and 2.1 times that of two trainings."""
    columns = [{"head": "Model", "field": "label"}, {"head": "FD", "metric": "fd", "direction": "lower"}]
    rows = [{"run": "student"}, {"run": "teacher"}]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"columns": columns, "rows": rows, "bold": {}}))
    known = {"reference_sha256": "a" * 64, "extractor_sha256": "b" * 64, "settings": "frechet extractor=digits"}
    measured = lines("student", spread(4.65, 0.001), **known)
    measured += lines("teacher", spread(4.0, 0.001), trained_on="digits", **known)
    sheet = {
        "student": SheetRow("student", "Student", "sida", "one-step", teacher=of_student, recipe="sida"),
        "teacher": SheetRow("teacher", "Teacher", "teacher", "heun", teacher="t"),
    }
    again = Retraining(std={"fd": 0.05}, source="made up")
    table = build_table(load_layout(tmp_path / "t.yaml"), Measurements(measured), sheet, retraining=again)
    assert [record["measured_rank"] for record in table.records] == ranks


@pytest.mark.parametrize(
    ("family", "nfe", "scored", "ranked"),
    [
        ("", 1, True, True),
        ("", 2, True, False),
        ("Other", 1, True, False),
        ("", 1, False, False),
        ("One", 9, False, True),
    ],
)
def test_a_score_without_a_family_is_ranked_beside_one_step_rows(family, nfe, scored, ranked):
    line = TableLine(RowSpec(run="x", scored=scored), SheetRow("x", "X", "external", family=family), nfe, {})
    assert _is_about(BoldSpec(families=("One",)), line) == ranked


def test_without_a_sheet_each_generator_is_a_row_of_the_columns_that_it_has():
    sources = TableSources(Measurements([*lines("a", [4.0, 4.1]), *lines("b", [5.0, 5.1])]), None)
    table = load_layout(MAIN).build(sources)
    assert [column.head for column in table.columns][-1] == "FD"
    assert [row.cells[1].text for row in table.rows] == ["a", "b"]


@pytest.mark.parametrize("known", [None, Retraining(std={"is": 0.01}, source="made up")])
def test_without_a_known_scatter_no_single_training_is_bold_and_a_note_says_so(measured, runs, known):
    table = build_table(load_layout(MAIN), measured, runs, retraining=known)
    (note,) = [note for note in table.notes if note.startswith("No measured value of FD, ")]
    assert ("IS" in note) == (known is None)
    assert note.endswith("over repeated trainings is unknown.")
    # Nor is it, with this one, where the best one beats none.
    assert not any(record["measured_rank"] for record in table.records)
    assert any("IS is bold: the best one beats none" in note for note in table.notes) == (known is not None)
    once = Measurements([row for row in measured.rows if row.trial == 0])
    (note,) = [note for note in build_table(load_layout(MAIN), once, runs, retraining=known).notes if "is bold" in note]
    assert note.endswith("over trials is unknown.")


def test_notes_state_trials_seeds_protocol_version_device_and_date(table):
    notes = " ".join(table.notes)
    for part in ("seeds 0–49,999", "Protocol synthetic", "0.0.0+test", "cpu (test)", "2035-01-01"):
        assert part in notes
    assert "training seeds" not in notes


def test_a_note_names_the_rows_that_were_measured_less(runs, tmp_path):
    lines = [line for line in measurement_lines() if line["run"] != "sid-a1.2" or line["trial"] < 4]
    measured = load_measurements(write_csv(tmp_path / "m.csv", lines))
    (note,) = [note for note in build_table(load_layout(MAIN), measured, runs).notes if "standard deviation" in note]
    assert "10 trials of 5,000 images (sid-a1.2: 4 trials of 5,000)" in note


def test_cells_have_the_layouts_decimals_and_the_csv_full_precision_and_provenance(table, measured):
    estimate = measured.estimate("sida-a1.0", "fd")
    cell = table.rows[5].cells[3]
    assert (cell.text, cell.spread, cell.kind) == (f"{estimate.mean:.2f}", f"{estimate.std:.2f}", "measured")
    assert table.rows[5].cells[7].text == f"{100 * measured.estimate('sida-a1.0', 'accuracy').mean:.1f}"
    assert table.rows[5].cells[5].spread is None
    records = csv_rows(to_csv(table))
    assert len(records) == len(TRUTH) * 6
    record = next(r for r in records if r["run"] == "sida-a1.0" and r["metric"] == "fd")
    assert float(record["measured"]) == estimate.mean
    assert float(record["measured_std"]) == estimate.std
    assert (record["trials"], record["n"], record["seed_first"], record["seed_last"]) == ("10", "5000", "0", "49999")
    assert record["network_sha256"]
    assert record["reference_sha256"]
    assert (record["published"], record["difference"]) == ("", "")


def test_a_table_is_rectangular_as_markdown_well_formed_as_html_and_fits_terminals(table):
    rows = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {len(table.columns) + 1}
    assert "**4.0" in next(line for line in rows if "SiDA," in line)
    assert to_html(table).count("<td") == len(table.rows) * len(table.columns)
    assert "SiD²A" in to_html(table)
    assert max(map(len, to_terminal(table, colour=False).splitlines())) <= 100
    assert "*" in to_terminal(table, colour=False)
    assert "\033[1m" in to_terminal(table, colour=True)


@pytest.mark.parametrize(
    ("lengths", "wide"), [([4, 4, 4, 4, 3, 3], False), ([10, 10, 9], True), ([11, 11, 11], True), ([3], False)]
)
def test_a_screen_of_400_pixels_shows_150_for_names_and_7_for_each_character(lengths, wide):
    """400 pixels are not wide, 401 are; 16 are between columns, and columns about the name are below it."""
    columns = [Column("N" * 90, name=True), Column("A" * 90, about=True)]
    columns += [Column("x" * (length if number % 2 else 1)) for number, length in enumerate(lengths)]
    cells = [Cell("name"), Cell("family"), *(Cell("x" * (1 if n % 2 else length)) for n, length in enumerate(lengths))]
    assert page_of(Table("t", "", "", "measured", tuple(columns), (Row(tuple(cells)),)))["wide"] is wide


def test_a_caption_without_a_title_stands_alone(table):
    untitled = dataclasses.replace(table, title="", caption="On digits.")
    assert to_markdown(untitled).startswith("On digits.\n\n|")
    assert to_markdown(dataclasses.replace(untitled, title="Mine")).startswith("**Mine.** On digits.\n\n|")


def test_a_missing_number_is_marked_and_never_best(measured, runs):
    kept = [row for row in measured.rows if row.run != "sida-a1.0" and (row.run, row.metric) != ("sid-a1.2", "is")]
    rest = type(measured)(kept, "m.csv")
    table = build_table(load_layout(MAIN), rest, runs)
    rows = {row.cells[1].text: row.cells[3:] for row in table.rows}
    assert {cell.plain for cell in rows["SiDA, α = 1.0"]} == {"not measured"}
    assert [cell.kind for cell in rows["SiD, α = 1.2"]].count("missing") == 1
    assert not any(cell.bold for cell in rows["SiDA, α = 1.0"])
    assert "*not measured*" in to_markdown(table)


def test_a_metric_of_a_row_that_was_not_measured_refuses_no_table(measured, runs):
    without = type(measured)([row for row in measured.rows if row.metric != "is"], "m.csv")
    refused("'is' was not measured in m.csv", build_table, load_layout(MAIN), without, runs)
    rest = type(measured)([row for row in without.rows if row.run != "sida-a1.0"], "m.csv")
    table = build_table(load_layout(MAIN), rest, runs)
    assert {cell.plain for row in table.rows for cell in row.cells if cell.kind == "missing"} == {"not measured"}


KID = {"head": "KID", "metric": "kid", "direction": "lower"}


def row(**settings):
    """A layout of this row."""
    return {"rows": [settings]}


@pytest.mark.parametrize(
    ("changes", "place", "word"),
    [
        ({"columns": [{"head": "A", "metric": "a", "optional": True}, KID]}, "columns[1].metric", "'kid'"),
        ({"columns": [{"head": "A"}]}, "columns[0].field", "either a field or a metric"),
        (row(run="sid-a1.3"), "rows[0].run", "did you mean 'sid-a1."),
        (row(each={"method": "gdd"}), "rows[0].each", "no run"),
        (row(run="sid", each={"method": "sid"}), "rows[0]", "only one"),
        (row(run="a", blank=["kid"]), "rows[0]", "no column 'kid'"),
        (row(run="sid-a1.2", pool=["sid-a1.2"]), "rows[0].pool", "names a run twice"),
        (row(label="x", pool=["sid-a1.2"]), "rows[0].pool", "needs run"),
        (row(run="sid-a1.2", pool=["sid-a1.0"], published="x"), "rows[0].pool", "cannot stand beside published"),
        (row(run="sid-a1.2", pool=["sid-a1.0"], pool_seeds=True), "rows[0].pool_seeds", "cannot stand beside pool"),
        (row(each={"method": "sid"}, published="x"), "rows[0].published", "cannot be combined with each"),
        (row(each={"metod": "sid"}), "rows[0].each", "'method'"),
        ({"columns": []}, "columns", "must not be empty"),
        ({"columns": [KID, KID]}, "columns", "'kid' occurs twice"),
    ],
)
def test_a_faulty_layout_names_the_place(tmp_path, measured, runs, changes, place, word):
    error = refused("", lambda: build_table(layout_with(tmp_path, **changes), measured, runs))
    assert str(error.where).endswith(f"layout.yaml: {place}")
    assert word in str(error)


def test_a_layout_is_checked_before_the_first_job_without_numbers(tmp_path, runs):
    identities = {run: {metric: Identity(protocol="p") for metric in METRICS} for run in runs}
    planned = Planned("runs.tsv", runs, identities, lambda *_: "")
    refused(r"rows\[0\]\.run.*'sid-a1\.3'", layout_with(tmp_path, **row(run="sid-a1.3")).check, planned)
    pooled = layout_with(tmp_path, **row(run="sid-a1.0", pool=["sida-a1.0"]))
    pooled.check(planned)
    identities["sida-a1.0"] = identities["sida-a1.0"] | {"fd": Identity(protocol="q", n=9)}
    refused(r"rows\[0\]\.run.*not comparable: fd: ", pooled.check, planned)
    no_fd = {run: {"is": Identity(protocol="p")} for run in runs}
    refused(r"columns\[3\]\.metric.*'fd'", layout_with(tmp_path).check, dataclasses.replace(planned, identities=no_fd))
    line = {"label": "eps", "published": ["no-such-number"]}
    settings = {"kind": "hyperparameters", "columns": [], "rows": [line | {"span": True}]}
    settings["columns"] = [{"head": "A", "key": "a", "sid": "sid-a1.0", "sida": "sida-a1.0"}]
    printed = table_layout(settings, "own.yaml")
    refused(r"own\.yaml: rows\[0\]\.published.*'no-such-number'", printed.check, planned)


def test_an_audited_row_has_lines_between_rules_and_says_its_name_once(tmp_path, measured, runs):
    columns = [
        {"head": "Family", "field": "family"},
        {"head": "Model", "field": "label"},
        {"head": "FD", "metric": "fd"},
    ]
    columns[2]["direction"] = "lower"
    printed = [{"published": f"table1-{key}-fid"} for key in ("vp-edm", "gdd-i", "sida-a1.0", "sid-a1.0", "sid-a1.2")]
    rows = [line | {"label": str(number), "family": "F"} for number, line in enumerate(printed)]
    rows[2]["run"] = "sida-a1.0"
    rows[4]["family"] = "G"
    layout = layout_with(tmp_path, columns=columns, rows=rows, bold=None)
    shown = [
        (*(cell.text for cell in row.cells[:3]), row.rule, row.part)
        for row in build_table(layout, measured, runs, "audit").rows
    ]
    assert shown == [
        ("F", "0", "published", False, False), ("", "1", "published", False, False),
        ("", "2", "published", True, False), ("", "", "measured", False, True),
        ("", "3", "published", True, False), ("G", "4", "published", True, False),
    ]  # fmt: skip
    assert [column.head for column in build_table(layout, measured, runs, "audit").columns] == [
        "Family",
        "Model",
        "",
        "FD",
    ]


PER_KIMG = "table8-sida-seconds-per-1k-images-cifar-10-sec-per-kimg"
HYPER_ROWS = [
    {"label": "Loss", "text": "SiD"},
    {"label": "Both", "group": "SiD", "published": [PER_KIMG], "span": True, "log": "memory_allocated_gb"},
    {"label": "Time", "group": "SiD", "log": "seconds_per_kimg"},
    {"label": "Two", "group": "SiDA", "published": [PER_KIMG, PER_KIMG], "form": "{}/{}", "log": "memory_reserved_gb"},
    {"label": "Rate", "published": [PER_KIMG], "setting": ["lr"]},
]


@pytest.mark.parametrize(
    ("mode", "lines"),
    [
        ("paper", ["Loss SiD", "--- SiD Both 3.6", "--- SiDA Two 3.6/3.6", "--- Rate 3.6"]),
        (
            "audit",
            [
                "Loss published SiD", "--- SiD Both published 3.6", "... measured not measured",
                "Time measured not measured",
                "--- SiDA Two published 3.6/3.6", "... measured not measured",
                "--- Rate published 3.6", "... configured not configured",
            ],
        ),
        (
            "measured",
            [
                "Loss SiD", "--- SiD Both not measured", "Time not measured", "--- SiDA Two not measured",
                "--- Rate not configured",
            ],
        ),
    ],
)  # fmt: skip
def test_a_table_of_settings_has_the_lines_of_its_mode(mode, lines):
    columns = [{"head": head, "key": head, "sid": f"{head}-sid", "sida": f"{head}-sida"} for head in "AB"]
    settings = {"kind": "hyperparameters", "columns": columns, "rows": HYPER_ROWS}
    table = table_layout(settings, "own.yaml").build(TableSources(None, None, mode))
    shown = [
        ["---"] * row.rule + ["..."] * row.part + [cell.plain for cell in row.cells[:-1] if cell.plain]
        for row in table.rows
    ]
    assert [" ".join(words) for words in shown] == lines
    assert all(row.cells[-1] == row.cells[-2] for row in table.rows)
    runs = {(record["row"], record["column"], record["run"]) for record in table.records if record["run"]}
    own = {(1, "sid"), (2, "sid"), (3, "sida"), (4, "sida")} if mode != "paper" else ()
    assert runs == {(number, head, f"{head}-{method}") for number, method in own for head in "AB"}
    printed = {(record["row"], record["column"]) for record in table.records if record["published"]}
    assert printed == ({(1, "all"), (3, "A"), (3, "B"), (4, "A"), (4, "B")} if mode != "measured" else set())


def test_of_several_reasons_against_a_value_the_shortest_is_told():
    mine, *others = (
        Identity(protocol="p", n=n, resolution=size) for n, size in ((1, "8"), (2, "9"), (2, "8"), (3, "9"))
    )
    assert unlike(mine, others) == "images per trial: 1 != 2"
    assert unlike(mine, [*others, mine]) is unlike(mine, []) is None


def test_a_table_without_measurements_and_names_of_other_files_are_told(tmp_path):
    refused("mode measured needs --measurements or --add.*--mode paper", make_table, MAIN)
    for wrong in ("main", "main.pdf"):
        refused(f"--out {wrong}: must end in .tex, .csv, .md, .html", table_paths, wrong)
    assert [path.name for path in table_paths(tmp_path / "x.md")] == ["x.tex", "x.csv", "x.md", "x.html"]


def test_evaluations_are_those_that_a_row_prints_or_else_the_measured_ones(measured, runs, tmp_path):
    columns = [{"head": "Model", "field": "label"}, {"head": "NFE", "field": "nfe"}, {"head": "FD", "metric": "fd"}]
    rows = [
        {"run": "sid-a1.0", "nfe": nfe, "label": "printed", "measured_label": label}
        for nfe, label in ((None, None), ("7", "ours"), ("7+", None), ("999999999", None), ("1234567890", None))
    ]
    shown = build_table(layout_with(tmp_path, columns=columns, rows=rows), measured, runs)
    assert [row.cells[1].text for row in shown.rows] == ["1", "7", "7+", "999999999", "1234567890"]
    assert [row.cells[0].text for row in shown.rows] == ["printed", "ours", "printed", "printed", "printed"]
    # A text that is no number, or too long for one, leaves the measured number in the data.
    assert [record["nfe"] for record in shown.records] == [1, 7, 1, 999999999, 1]
    assert (nfe_text(None, ""), nfe_text(0, "x"), nfe_text(3, ""), nfe_text(3, "num_steps=2")) == (
        "", "", "3", "3 (trained with num_steps=2)",
    )  # fmt: skip


def test_metrics_are_cited_where_a_measured_score_was_added(measured, runs, tmp_path):
    columns = [{"head": "Model", "field": "label"}, {"head": "FD", "metric": "fd"}]
    number = load_published()["table1-sida-a1.0-fid"]
    for row, cited in (
        ({"run": "sid-a1.0"}, False),
        ({"run": "sid-a1.0", "scored": True}, True),
        ({"published": "added-{metric}", "label": "theirs", "scored": True}, False),
    ):
        layout = layout_with(tmp_path, columns=columns, rows=[row])
        made = build_table(layout, measured, runs, published={"added-fd": number})
        assert bool(made.cited) == cited
        assert [cell.kind for cell in made.rows[0].cells][1] == ("measured" if "run" in row else "published")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("1e-05", "1e-5"), (1e-5, "1e-5"), (2.0, "2"), (0.25, "0.25"), (1e20, "1e20"), (True, "True"), (None, "None")],
)
def test_a_setting_is_printed_as_short_as_it_is(text, shown):
    assert _text(text) == (text if isinstance(text, str) else shown)


def test_the_papers_layouts_serve_other_data_by_names_and_keys(tmp_path, measured, runs):
    columns = [{"head": "Model", "field": "label"}, {"head": "FD", "metric": "fd", "direction": "lower"}]
    mapping = {"columns": columns, "vars": {"set": "sid"}}
    mapping["rows"] = [
        {"run": "{set}-a1.2"},
        {"run": "{set}-a1.0"},
        {"run": "{set}-a1.0", "pool": ["{set}-a1.2"], "label": "both"},
        {"label": "quoted", "published": "table1-ddpm-{metric}"},
    ]
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(mapping))
    (tmp_path / "other.yaml").write_text("extends: base.yaml\nvars: {set: sida}\nrows: [{run: '{set}-a1.0'}]\n")
    table = build_table(load_layout(tmp_path / "base.yaml"), measured, runs)
    assert [row.cells[0].text for row in table.rows] == ["SiD, α = 1.2", "SiD, α = 1.0", "both"]
    assert table.records[-1]["run"] == "sid-a1.0 sid-a1.2"
    assert table.records[0]["metric"] == "fd"
    other = build_table(load_layout(tmp_path / "other.yaml"), measured, runs)
    assert other.rows[0].cells[1].text == f"{measured.estimate('sida-a1.0', 'fd').mean:.3f}"
    assert (other.name, len(other.rows)) == ("other", 1)
    for name, beside in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {beside}.yaml\n")
    refused("circle", load_layout, tmp_path / "a.yaml")
    (tmp_path / "bad.yaml").write_text("extends: base.yaml\nvars: {}\n")
    refused(r"rows\[0\]\.run: .*braces", build_table, load_layout(tmp_path / "bad.yaml"), measured, runs)


POOLED = {
    "columns": [
        {"head": "Model", "field": "label"},
        {"head": "FD", "metric": "fd", "direction": "lower", "decimals": 4},
    ],
    "rows": [
        {"label": "teacher", "run": "teacher-nfe35"},
        {"label": "pooled", "run": "sid-a1.2", "pool": ["sid-a1.0", "sida-a1.0"]},
    ],
}


def test_pooled_rows_show_the_mean_and_spread_of_the_seeds_means(measured, runs, tmp_path):
    table = build_table(layout_with(tmp_path, **POOLED), measured, runs)
    means = [measured.estimate(run, "fd").mean for run in ("sid-a1.2", "sid-a1.0", "sida-a1.0")]
    cell = table.rows[1].cells[1]
    assert (cell.text, cell.spread) == (f"{statistics.fmean(means):.4f}", f"{statistics.stdev(means):.4f}")
    assert any("of the seeds' means" in note for note in table.notes)
    record = next(r for r in csv_rows(to_csv(table)) if r["model"] == "pooled")
    assert (record["run"], record["trials"], record["training_seeds"]) == ("sid-a1.2 sid-a1.0 sida-a1.0", "10", "3")
    assert len(record["network_sha256"].split()) == 3
    # The other seeds of a row are pooled without a list; labels may name the seed.
    other = dataclasses.replace(runs["sid-a1.2"], run="sida-a1.0", label="SiD, seed 1", seed=1)
    seeds = {**runs, other.run: other}
    rows = [
        {"label": "pooled", "run": "sid-a1.2", "pool_seeds": True},
        {"label": "one", "run": "data", "pool_seeds": True},
    ]
    table = build_table(layout_with(tmp_path, **(POOLED | {"rows": rows})), measured, seeds)
    means = [measured.estimate(run, "fd").mean for run in ("sid-a1.2", "sida-a1.0")]
    assert [row.cells[1].text for row in table.rows] == [
        f"{statistics.fmean(means):.4f}",
        f"{measured.estimate('data', 'fd').mean:.4f}",
    ]
    assert table.records[0]["training_seeds"] == 2


@pytest.mark.parametrize(
    ("run", "change", "word"),
    [
        ("sid-a1.0", {"reference_sha256": "9" * 64}, "reference"),
        ("sida-a1.0", {"extractor_sha256": "9" * 64}, "feature network"),
        ("sida-a1.0", {"settings": "made_up metric=fd cov_ddof=0"}, "cov_ddof=0"),
        ("sid-a1.2", {"classes": "uniform"}, "uniform"),
    ],
)
def test_trainings_that_were_measured_unlike_are_not_pooled(measured, runs, tmp_path, run, change, word):
    # Under another protocol: rows of one protocol are refused wherever they stand.
    other = [
        dataclasses.replace(row, protocol="other", **change) if (row.run, row.metric) == (run, "fd") else row
        for row in measured.rows
    ]
    error = refused("", build_table, layout_with(tmp_path, **POOLED), Measurements(other), runs)
    assert "rows[1]" in str(error.where)
    assert run in error.fault
    assert word in error.fault


def test_one_network_under_two_names_is_not_pooled(measured, runs, tmp_path):
    digest = measured.of_run("sid-a1.0")[0].network_sha256
    other = [
        dataclasses.replace(row, network_sha256=digest) if row.run == "sida-a1.0" else row for row in measured.rows
    ]
    error = refused("one network", build_table, layout_with(tmp_path, **POOLED), Measurements(other), runs)
    assert "rows[1]" in str(error.where)
    assert {"'sid-a1.0'", "'sida-a1.0'"} <= {*re.findall(r"'[^']+'", error.fault)}


def test_a_row_whose_training_kept_its_start_says_so(tmp_path, table, runs):
    """In the note below the table in every form and in its data."""
    lines = list(measurement_lines())
    for line in lines:
        line["kept_at"] = {"sid2a-a1.0": 0, "sid-a1.2": 0, "sida-a1.0": 40000}.get(line["run"], "")
    path = write_csv(tmp_path / "m.csv", lines)
    started = build_table(load_layout(MAIN), load_measurements(path), runs)
    (note,) = [note for note in started.notes if note.startswith("Kept at the start")]
    assert note.endswith(": SiD, α = 1.2; SiD2A, α = 1.0.")
    shown = note.replace("SiD2A", "SiD²A")
    assert all(shown in text for text in (to_markdown(started), to_html(started)))
    kept = {r["run"]: r["kept_at"] for r in csv_rows(to_csv(started))}
    assert (kept["sid2a-a1.0"], kept["sida-a1.0"], kept["sid-a1.0"], kept["data"]) == ("0", "40000", "", "")
    pooled = build_table(layout_with(tmp_path, **POOLED), load_measurements(path), runs)
    assert any(note.endswith(": pooled (1 of 3 trainings).") for note in pooled.notes)
    assert pooled.records[1]["kept_at"] == "0 40000"
    assert not any("start" in note for note in table.notes)


# As LaTeX


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SiD2A, α=1.0", r"SiD$^2$A, $\alpha$=1.0"),
        ("(λ_sid, λ_adv)", r"($\lambda_{\mathrm{sid}}$, $\lambda_{\mathrm{adv}}$)"),
        ("Adam β₂", r"Adam $\beta_{2}$"),
        ("§ ¶ † ‡", r"$\mathsection$ $\mathparagraph$ $\dagger$ $\ddagger$"),
        ("SiD²A", r"SiD$^2$A"),
        ("(10^4 k)", r"($10^4$ k)"),
        ("FID ↓ 32×32", r"FID $\downarrow$ 32$\times$32"),
        (r"a\b{c}", r"a\textbackslash{}b\{c\}"),
        ("(--config) 0–9", "(-{}-config) 0--9"),
        ("✓ ✗ √", r"{\usefont{U}{msa}{m}{n}\char88} $\times$ $\surd$"),
        (
            "ω_max, Ω₁, ε, ο, Α_a",
            r"$\omega_{\mathrm{max}}$, $\Omega_{1}$, $\varepsilon$, $o$, $\mathrm{A}_{\mathrm{a}}$",
        ),
        ("'a', the \"best\" EDM's", "`a', the ``best'' EDM's"),
        ("A|B", r"A\textbar{}B"),
        ("[0, 1]", "{}[0, 1]"),
        (" *a", "{} *a"),
        ("+∞ ≈ n ≠ 0", r"+$\infty$ $\approx$ n $\ne$ 0"),
        ("x₀, 10⁴", r"x$_0$, 10$^4$"),
        ("Poincare\u0301", "Poincar\u00e9"),
    ],
)
def test_latex_escaping(text, expected):
    assert escape(text) == expected


@given(st.text(alphabet="abc&%$#_{}~^\\ α", max_size=20))
def test_no_active_character_survives_escaping(text):
    safe = escape(text)
    for name in ("textbackslash{}", "textasciitilde{}", "textasciicircum{}"):
        safe = safe.replace("\\" + name, "")
    safe = re.sub(r"\$\\alpha(_\{\\mathrm\{[a-z]+\}\})?\$", "", safe)
    assert not re.search(r"(?<!\\)[&%$#_{}~^]", safe)


NUMBER = Column("FID", number=True)


@pytest.mark.parametrize(
    ("cell", "latex"),
    [
        (Cell("2.028", "published", "0.020"), r"$2.028 \pm 0.020$"),
        (Cell("2.0", "measured", "0.1", "best"), r"$\mathbf{2.0 \pm 0.1}$"),
        (Cell("2.0", "measured", "0.1", "level"), r"$2.0 \pm 0.1$\,$\approx$"),
        (Cell("−0.02", "difference", agreement="worse"), r"$-0.02$\,$\times$"),
        (Cell(kind="missing"), r"{\itshape not measured}"),
        (Cell(kind="dash"), "--"),
        (Cell(kind="blank"), ""),
        (Cell("<5", "published"), "$<$5"),
        (Cell("98 %", "published", rank="best"), r"\textbf{98 \%}"),
        (Cell("1,496.440", "measured", "12.100"), r"$1{,}496.440 \pm 12.100$"),
        (Cell("1,0", "published"), "1,0"),
    ],
)
def test_a_number_is_mathematics(cell, latex):
    assert latex_cell(cell, NUMBER, cite=False) == latex


def test_a_rule_of_latex_is_above_the_row_that_begins_a_family(table):
    lines = [line for line in to_latex(table).splitlines() if r"\\" in line or line == r"\midrule"]
    # The heading, its rule, and the rows with those above them.
    after = iter(lines[2:])
    for row in table.rows:
        line = next(after)
        assert (line == r"\midrule") == row.rule
        assert escape(row.cells[1].text) in (next(after) if row.rule else line)
    assert sum(row.rule for row in table.rows) == 2
    assert next(after, None) is None


def test_latex_cites_the_metrics_of_rows_that_were_added(table):
    added = dataclasses.replace(table, cited=("sida-repro", "fid"))
    assert r"\cite{sida-repro,fid}" in to_latex(added, cite=True)
    assert r"\cite" not in to_latex(added)


needs_latex = pytest.mark.skipif(missing_latex() is not None, reason=str(missing_latex()))


def run(folder, *command):
    """What a program says, which must end well."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def pdflatex(folder, name, body=None, packages=""):
    """What pdfLaTeX says of a file, or of a document with this body."""
    if body is not None:
        document = rf"\documentclass{{article}}\usepackage{{{packages}}}\begin{{document}}{body}\end{{document}}"
        (folder / name).write_text(document)
    return run(folder, "pdflatex", "-interaction=nonstopmode", "-halt-on-error", name)


def text_of(folder):
    """Text of the document ``host.pdf``, by the place on its pages."""
    return run(folder, "pdftotext", "-layout", "host.pdf", "-")


def assert_one_page(said):
    assert "(1 page" in said
    assert "undefined" not in said
    assert "Overfull" not in said


@needs_latex
def test_a_table_compiles_alone_and_by_input_with_every_number(tmp_path, table):
    write_table(table, tmp_path / "main.tex")
    assert_one_page(pdflatex(tmp_path, "main.tex"))
    # Everything after the first \input must still be there: the file does not end its host.
    assert_one_page(pdflatex(tmp_path, "host.tex", r"A\input{main}B\input{main.tex}C", "booktabs"))
    if shutil.which("pdftotext"):
        text = text_of(tmp_path)
        for cell in (cell for row in table.rows for cell in row.cells if cell.kind == "measured"):
            assert all(text.count(number) >= 2 for number in (cell.text, cell.spread) if number)


def test_measured_values_have_commas_between_thousands(measured, runs, tmp_path):
    columns = [{"head": "Model", "field": "label"}]
    columns += [{"head": "FD", "metric": "fd", "direction": "lower", "decimals": 1, "scale": 1000}]
    shown = build_table(layout_with(tmp_path, columns=columns), measured, runs)
    texts = [row.cells[1].text for row in shown.rows if row.cells[1].kind == "measured"]
    assert any(len(text) > 5 for text in texts)
    assert all(re.fullmatch(r"\d{1,3}(,\d{3})*\.\d", text) for text in texts)
    assert "{,}" in to_latex(shown)
    # Files for programs have plain numbers.
    assert all("," not in str(record["measured"]) for record in shown.records)


@needs_latex
def test_thousands_are_printed_with_a_comma(tmp_path):
    rows = [Row((Cell("a"), Cell("1,496.4", "measured", "12.0"))), Row((Cell("b"), Cell("27.5", "measured", "0.1")))]
    table = Table("t", "", "", "measured", (Column("Model"), Column("FD", number=True)), tuple(rows))
    write_table(table, tmp_path / "t.tex")
    assert_one_page(pdflatex(tmp_path, "host.tex", r"\input{t}", "booktabs"))
    if shutil.which("pdftotext"):
        assert "1,496.4" in text_of(tmp_path)


@needs_latex
def test_every_greek_letter_compiles_alone_and_with_an_index(tmp_path):
    letters = [chr(code) for code in (*range(0x391, 0x3AA), *range(0x3B1, 0x3CA)) if code != 0x3A2]
    text = "\n".join(f"{letter} {letter}_max {letter}₁" for letter in letters)
    assert_one_page(pdflatex(tmp_path, "greek.tex", escape(text)))


@pytest.mark.parametrize("name", ["table3", "table8"])
def test_a_table_of_the_paper_is_as_printed_where_nothing_of_ours_is_given(name):
    assert to_latex(make_table(name)) == to_latex(make_table(name, mode="paper"))


@needs_latex
def test_a_plain_table_needs_booktabs_alone_and_cites_by_key(tmp_path):
    table = make_table("table1")
    (tmp_path / "t.tex").write_text(to_latex(table, cite=True))
    (tmp_path / "refs.bib").write_text(bibliography(cited_keys(table)))
    pdflatex(tmp_path, "host.tex", r"\input{t}\bibliographystyle{plain}\bibliography{refs}", "booktabs")
    run(tmp_path, "bibtex", "host")
    pdflatex(tmp_path, "host.tex")
    assert "undefined" not in pdflatex(tmp_path, "host.tex")
    text = text_of(tmp_path)
    assert re.search(r"SiDA, α=1\.0 \[\d+\]\s+1\s+1\.516 ± 0\.010\s+10\.323 ± 0\.048", text)
    assert "Rapidly surpassing the teacher" in " ".join(text.split())
