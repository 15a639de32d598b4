"""Results as files: measurements, numbers of others, published ones with their references; faults with their place."""

import contextlib
import functools
import io
import json
import math
import re
import statistics
from dataclasses import asdict, replace

import jsonschema
import numpy as np
import pytest

from sida.config.lookup import ROOT
from sida.eval.claims.write import read_verdicts
from sida.eval.report.paper import training_time
from sida.eval.results import load
from sida.eval.results.bibliography import SUITE, bibliography, cited_label, references
from sida.eval.results.exchange import exchanged, read_exchanged, read_numbers
from sida.eval.results.logs import kept_images, logged_level, read_evaluations, read_log
from sida.eval.results.measurements import MEASUREMENT_COLUMNS, Estimate, load_measurements
from sida.eval.results.numbers import RETRAINING, agreement
from sida.eval.results.published import load_published
from sida.eval.results.retraining import Retraining, load_retraining
from sida.eval.results.trial_files import read_measurement, write_csv
from sida.eval.tables.build import make_table
from sida.eval.tables.latex import to_latex
from sida.files.atomic import write_hashed_json
from sida.files.text_files import number_in
from sida.workflow.cli import main
from tests.eval import synthetic_output as made_up
from tests.eval.synthetic_output import measurement_lines
from tests.refused import refused
from tools.write_schemas import SCHEMAS, json_schema


@pytest.fixture
def lines():
    return list(measurement_lines(trials=4))


def test_estimates_are_mean_and_sample_std_over_trials(lines, tmp_path):
    measured = load_measurements(made_up.write_csv(tmp_path / "m.csv", lines))
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
        return refused("", load_measurements, made_up.write_csv(tmp_path / "m.csv", lines, columns))

    return read


def test_duplicate_rows_and_gaps_between_trials_are_refused(fault, lines):
    assert "run 'data', metric 'accuracy': trial 0 occurs twice" in fault([*lines, lines[5]]).fault
    same = [line | {"seed_first": 0, "seed_last": "" if line["trial"] else 4999} for line in lines[::6][:2]]
    assert "overlapping seeds" in fault(same).fault
    kept = [line for line in lines if not (line["run"] == "sid-a1.2" and line["trial"] == 1)]
    assert "run 'sid-a1.2', metric 'fd': trial 1 is missing" in fault(kept).fault


@pytest.mark.parametrize(("column", "texts"), [
    ("saw", ("none", "loss:inception")),
    ("saw", ("loss:inception", "")),
    ("network_sha256", ("a" * 64, "")),
    ("nfe", ("1", "2")),
    ("method", ("sid", "sida")),
])  # fmt: skip
@pytest.mark.parametrize("apart", ["trial", "metric"])
def test_lines_of_one_run_are_about_one_generator(fault, lines, column, texts, apart):
    """A reader that takes the column from the first line would count one generator as another."""
    mine = [line for line in lines if line["run"] == "sida-a1.0"]
    first = mine[0][apart]
    changed = [line | {column: texts[line[apart] != first]} for line in mine]
    error = fault(changed, (*MEASUREMENT_COLUMNS, "saw"))
    assert f"run 'sida-a1.0': {column}: '{texts[0]}' and '{texts[1]}'" in error.fault
    assert "a run of its own" in error.remedy


def test_networks_of_a_generator_have_no_order_and_several_names(lines, tmp_path):
    words = ("loss:vgg16 loss:inception", "loss:FID loss:vgg16", "loss:inception loss:vgg16")
    mine = [line | {"saw": words[line["trial"] % 3]} for line in lines if line["run"] == "sida-a1.0"]
    path = made_up.write_csv(tmp_path / "m.csv", mine, (*MEASUREMENT_COLUMNS, "saw"))
    assert [line.trial for line in load_measurements(path).lines("sida-a1.0", "fd")] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("column", "text", "word"),
    [
        ("value", "nan", "finite"),
        ("value", "4.1x", "4.1x"),
        ("n", "", "missing"),
        ("nfe", "1.5", "1.5"),
    ],
)
def test_cells_of_the_wrong_type_name_line_and_column(fault, lines, column, text, word):
    lines[0][column] = text
    error = fault(lines)
    assert error.where.endswith(f"m.csv:2: {column}")
    assert word in error.fault


def test_missing_column_and_file(tmp_path, fault, lines):
    assert "'protocol'" in fault(lines, [name for name in MEASUREMENT_COLUMNS if name != "protocol"]).fault
    refused("no such measurements", load_measurements, tmp_path / "absent.csv")


def test_what_was_not_measured_is_named_when_it_is_used(tmp_path, lines):
    kept = [x for x in lines if not (x["run"] == "sid-a1.2" and x["trial"] == 3 and x["metric"] == "is")]
    estimate = load_measurements(made_up.write_csv(tmp_path / "m.csv", kept)).estimate
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


def test_a_repeated_training_scatters_by_a_share_of_the_mean():
    known = Retraining(std={"fd": 0.1}, source="made up", df=4)
    assert known.variance("fd", 3.0) == (pytest.approx(0.09), 4)
    # A publication's standard deviation has no degrees of freedom, and the one of another metric is unknown.
    variance, freedom = replace(known, df=0).variance("fd", 3.0)
    assert (variance, freedom > 1e6) == (pytest.approx(0.09), True)
    assert known.variance("is", 3.0) is None


@pytest.mark.parametrize(("trainings", "networks"), [(0, 0), (1, 2), (3, 1)])
def test_a_training_scatters_as_the_printed_one_does_and_several_show_their_own_scatter(trainings, networks):
    """fid scatters by 2.1 % (config/retraining)."""
    fid, std = load_published()["table1-sida-a1.0-fid"], load_retraining(RETRAINING).std["fid"]
    error = math.sqrt((0.02**2 + 0.010**2) / 10 + networks * (std * fid.value) ** 2)
    found = agreement(Estimate(1.520, 0.02, 10), fid, trainings)
    assert found.tolerance == pytest.approx(max(3 * error, 0.01516))


def test_frames_hold_the_numbers_of_the_files(tmp_path):
    found = load(folder := made_up.write_preset(tmp_path / "p"))
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
        ("SiD²A, α=1.2 (ours)", "SiD²A, α=1.2 (ours)", "zhou2024sida"),
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
        # The suite has no year before its first release.
        assert re.search("title = .*" + (r"year = \{\d{4}\}" if key != SUITE else ""), entry.bibtex, re.DOTALL), key
        assert "names =" not in entry.bibtex
    # A label of nobody has no entry.
    assert cited_label("Class mean and noise") == ("Class mean and noise", None)
    # A citation of a paper that is not in the file is the only origin of its row.
    assert cited_label("SiD of ours (Nobody et al., 2031)") == ("SiD of ours (Nobody et al., 2031)", None)
    # An unknown key is refused, and a table that there is not.
    refused("nobody2024", bibliography, ["nobody2024"])
    refused("^table: no layout of a table 'nobody'", make_table, "nobody")
    # Each row of the papers tables has an entry.
    labels = {p.row_label for p in load_published().values() if re.fullmatch(r"table[1-7]", p.source)}
    without = [label for label in labels if cited_label(label)[1] is None]
    assert all(label.startswith("column header") for label in without)


def test_a_table_with_cite_compiles_alone_with_its_references():
    tex = to_latex(make_table("printed-imagenet256", mode="paper"))
    assert r"IMM~\cite{zhou2025imm}" in tex
    assert tex.index(r"\bibitem{zhou2025imm}") < tex.index(r"\begin{table}")
    assert tex.count(r"\bibitem") == 3


@pytest.fixture(scope="module")
def printed(tmp_path_factory, digits):
    """Lines that `sida score --json` prints of real digits."""
    folder = tmp_path_factory.mktemp("score")
    np.savez(folder / "my images.npz", arr_0=digits[0][::3])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        command = ["score", str(folder / "my images.npz"), "--protocol", "digits", "--num-samples", "200"]
        assert main([*command, "--json", "--origin", "Lab, example.org"]) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_per_metric_fits_the_schema(printed):
    schema = json.loads((ROOT / "workflow/schemas/measurement.schema.json").read_text())
    assert schema == json_schema(SCHEMAS["measurement"])
    for line in printed:
        jsonschema.validate(line, schema)
        assert len(line["values"]) == 2
        assert line["settings"].split()[0] in ("frechet", "inception_score", "precision", "recall", "accuracy")
    assert printed[0]["metric"] == "fd"
    assert len(printed[0]["extractor_sha256"]) == len(printed[0]["reference_sha256"]) == 64
    assert printed[0]["run"] == "my-images.npz"
    assert printed[0]["origin"] == "Lab, example.org"


@pytest.fixture
def theirs(tmp_path):
    """Writes lines of another group; returns their file."""

    def write(*lines, **changes):
        path = tmp_path / "theirs.jsonl"
        path.write_text("".join(json.dumps({**line, "origin": "Group A", **changes}) + "\n" for line in lines))
        return path

    return write


@pytest.mark.parametrize(("metric", "value"), [("precision", 1.75), ("recall", 85.5), ("fd", -3.0), ("is", 0.4)])
def test_a_value_beyond_its_metric_is_refused_where_it_enters(metric, value, printed, theirs, tmp_path):
    line = next(line for line in printed if line["metric"] == metric)
    path = theirs(line, values=[line["values"][0], value])
    refused(rf"theirs.jsonl:1: run .*trial 1: value: is {value:g}, ", read_exchanged, path)
    facts = {"method": "x", "n": 9, "run": "r", "metric": metric, "settings": line["settings"], "date": "2026-11-22"}
    write_csv(tmp_path / "m.csv", [], [{**facts, "trial": 0, "value": value, "protocol": "digits", "origin": "A"}])
    refused(rf"m.csv:2: value: is {value:g}", load_measurements, tmp_path / "m.csv")


def test_numbers_of_others_are_collected_with_their_origin(printed, theirs, tmp_path):
    path = theirs(*printed, origin="Group A, doi:10.1/x")
    numbers = [*map(asdict, read_exchanged(path))]
    assert write_csv(tmp_path / "measurements.csv", [], numbers) == 2 * len(printed)
    rows = load_measurements(tmp_path / "measurements.csv").rows
    assert {row.origin for row in rows} == {"Group A, doi:10.1/x"}
    assert [row.value for row in rows if row.metric == "fd"] == printed[0]["values"]
    # Without them the file is as before.
    write_csv(tmp_path / "ours.csv", [])
    assert (tmp_path / "ours.csv").read_text().startswith(",".join(MEASUREMENT_COLUMNS) + "\n")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("origin", "a\u202eb"), ("values[0]", ["low"]), ("n", 0), ("format", "sida-metric/1"), ("run", "../x"),
    ],
)  # fmt: skip
def test_a_wrong_line_names_its_key(printed, theirs, key, value):
    path = theirs(printed[0], **{key.partition("[")[0]: value})
    assert refused("", read_exchanged, path).where.replace(": ", ".") == f"{path}:1.{key}"


@pytest.mark.parametrize("name", ["_mine", "x" * 101, "…"])
def test_a_score_of_any_name_is_read_again(theirs, name):
    record = made_up.trial_record(name)
    # A separator of lines in a text ends no line of the file.
    record["environment"]["device"] = "cpu\u2028x"
    path = theirs(*exchanged([record]))
    path.write_text(path.read_text().replace("\\u2028", "\u2028"))
    assert [line.device for line in read_exchanged(path)] == ["cpu\u2028x"]


def test_no_run_has_two_origins(printed, theirs, tmp_path):
    rows = [*map(asdict, read_exchanged(theirs(printed[0])))]
    refused("two origins", write_csv, tmp_path / "a.csv", [], [*rows, {**rows[0], "origin": "Group B"}])
    refused("occurs twice", read_exchanged, theirs(printed[0], printed[0]))


FINDING = {"rule": "LT", "numbers": {}}
CLAIM = {
    "id": "X-1", "statement": "s", "source": "", "counterpart": "", "note": "", "verdict": "supported",
    "evidence": ["e"], "findings": [FINDING], "rows": ["a"], "chance": False,
}  # fmt: skip


def changed(value, path, new):
    """A copy of a JSON value with another value at a path."""
    copy = json.loads(json.dumps(value))
    *holders, last = path.split(".")
    place = copy
    for key in holders:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = new
    return copy


#: Readers of stored records by file, with a whole record and the remedy that they name.
RECORDS = {
    "trial-0.json": (read_measurement, made_up.trial_record(), "measure this trial again"),
    "claims.json": (read_verdicts, {"preamble": "", "comparisons": "", "claims": [CLAIM]}, "decide the claims again"),
    "score.json": (read_numbers, {"measurements": [made_up.trial_record()]}, "is not a result of sida score"),
}


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("trial-0.json", "seeds", [0]), ("trial-0.json", "protocol.fields", 3), ("trial-0.json", "metrics.fd", "1.5"),
        ("trial-0.json", "metrics.fd", True), ("trial-0.json", "source", "x"), ("claims.json", "claims", ["x"]),
        ("score.json", "measurements.0.n", "40"), ("score.json", "measurements", []),
    ],
)  # fmt: skip
def test_a_record_of_another_form_is_one_line(tmp_path, file, path, value):
    read, record, remedy = RECORDS[file]
    (tmp_path / file).write_text(json.dumps(record))
    assert read(tmp_path / file)
    (tmp_path / file).write_text(json.dumps(changed(record, path, value)))
    refused(rf"{file}: .*{remedy}", read, tmp_path / file)


@pytest.mark.parametrize("text", ["１", "1_0", "0x1", "1e"])
def test_a_number_in_a_cell_has_ascii_digits(text):
    assert number_in(text, float) is None
    assert (number_in("-1", int), number_in("1E+3", float), number_in("1.", int)) == (-1, 1000.0, None)


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({"fd": 1}, "nimg"), ({"nimg": True}, "nimg"), ({"nimg": 10**400}, "nimg"),
        ({"nimg": 8, "seconds": "x"}, "seconds"), ({"nimg": 8, "fd": True}, "fd"),
        ({"nimg": 8, "fd": 1.5, "fd_trials": 3}, "fd_trials"),
    ],
)  # fmt: skip
def test_a_log_of_another_form_names_the_line(tmp_path, record, place):
    log = tmp_path / "train.jsonl"
    log.write_text(f'{{"nimg": 4, "fd": 2, "seconds": null}}\n{json.dumps(record)}\n')
    of_metric = functools.partial(read_evaluations, metric="fd")
    for reader in [of_metric] if place.startswith("fd") else (read_log, training_time, kept_images):
        refused(rf"train.jsonl:2: {place}: .*train the run again|train.jsonl:2: {place}: must be a", reader, log)


@pytest.mark.parametrize(
    ("quantity", "level", "spread"),
    [
        ("img_per_s", 200, 1.2533 * 141.4214), ("seconds_per_kimg", 20 / 3, 1.2533 * 4.714045),
        ("hours_per_10M", 2e5 / 3 / 3600, 1.2533 * 4.714045e4 / 3600),
        ("days_per_100M", 2e6 / 3 / 86400, 1.2533 * 4.714045e5 / 86400),
        ("memory_allocated_gb", 3, 0), ("memory_reserved_gb", 5, 0), ("memory_reserved_mb", 5120, 0),
        ("memory_mb", 2048, 1.2533 * 1448.155),
    ],
)  # fmt: skip
def test_levels_of_a_log_are_medians_in_their_unit_and_the_largest_memory(quantity, level, spread):
    """The median is of the values in the unit. The first record, which has the start-up, is left out."""
    values = {"img_per_s": [1, 100, 300], "memory_mb": [9999, 1024, 3072], "memory_reserved_mb": [9999, 1024, 5120]}
    ticks = [dict(zip(values, row)) for row in zip(*values.values())]
    found = logged_level(ticks, quantity)
    assert (found.mean, found.std, found.trials) == (pytest.approx(level), pytest.approx(spread), 2)
    assert logged_level([], quantity) is None
