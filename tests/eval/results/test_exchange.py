"""Numbers and results of others: collected beside ours by their origin, and refused in one line with the place."""

import contextlib
import io
import json

import jsonschema
import numpy as np
import pytest

from eval.claims.write import read_verdicts
from eval.report.page import write_index
from eval.report.paper import training_time
from eval.results.exchange import read_exchanged
from eval.results.logs import kept_images, read_evaluations, read_log
from eval.results.measurements import read_measurement, read_score, write_csv
from eval.results.summary import MEASUREMENT_COLUMNS, load_measurements
from sida.config.resources import ROOT
from sida.data import load_dataset
from tests.refused import refused
from tools.settings_page import SCHEMAS, json_schema
from workflow.cli import main


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Lines that `sida score --json` prints of real digits."""
    folder = tmp_path_factory.mktemp("score")
    digits = load_dataset({"name": "digits", "kind": "digits"}).images(range(0, 1797, 3)).numpy()
    np.savez(folder / "my images.npz", arr_0=digits)

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


@pytest.mark.parametrize(("metric", "value"), [("precision", 1.75), ("recall", 85.5), ("fd", -3.0), ("is", 0.4)])
def test_a_value_beyond_its_metric_is_refused_where_it_enters(metric, value, printed, tmp_path):
    line = next(line for line in printed if line["metric"] == metric)
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps({**line, "values": [line["values"][0], value], "origin": "A"}) + "\n")
    refused(rf"theirs.jsonl:1.*values.1.: is {value:g}, ", read_exchanged, path)
    facts = {"method": "x", "n": 9, "run": "r", "metric": metric, "settings": line["settings"], "date": "2026-11-22"}
    write_csv(tmp_path / "m.csv", [], [{**facts, "trial": 0, "value": value, "protocol": "digits", "origin": "A"}])
    refused(rf"m.csv:2: run 'r', trial 0, metric '{metric}': is {value:g}", load_measurements, tmp_path / "m.csv")


def test_numbers_of_others_are_collected_with_their_origin(printed, tmp_path):
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps({**line, "origin": "Group A, doi:10.1/x"}) + "\n" for line in printed))
    assert write_csv(tmp_path / "measurements.csv", [], read_exchanged(path)) == 2 * len(printed)
    rows = load_measurements(tmp_path / "measurements.csv").rows
    assert {row.origin for row in rows} == {"Group A, doi:10.1/x"}
    assert [row.value for row in rows if row.metric == "fd"] == printed[0]["values"]
    # Without them the file is as before.
    write_csv(tmp_path / "ours.csv", [])
    assert (tmp_path / "ours.csv").read_text().startswith(",".join(MEASUREMENT_COLUMNS) + ",")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("origin", "a\u202eb"), ("values[0]", ["low"]), ("n", 0), ("format", "sida-metric/1"), ("run", "../x"),
    ],
)  # fmt: skip
def test_a_wrong_line_names_its_key(printed, tmp_path, key, value):
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps({**printed[0], "origin": "Group A", key.partition("[")[0]: value}) + "\n")
    assert refused("", read_exchanged, path).place.replace(": ", ".") == f"{path}:1.{key}"


def test_no_run_has_two_origins(printed, tmp_path):
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps({**printed[0], "origin": "Group A"}) + "\n")
    rows = read_exchanged(path)
    refused("two origins", write_csv, tmp_path / "a.csv", [], [*rows, {**rows[0], "origin": "Group B"}])
    path.write_text(path.read_text() * 2)
    refused("stands there twice", read_exchanged, path)


TRIAL = {
    "run": "a", "method": "sid", "trial": 0, "n": 4, "seeds": [0, 3], "metrics": {"fd": 1.5}, "extractors": {"x": "e7"},
    "protocol": {"name": "p", "fields": {"metrics": {"fd": {"extractor": "x"}}}}, "reference": {},
    "metric_references": {"fd": {"sha256": "4e"}}, "environment": {}, "spec_sha256": "5e",
}  # fmt: skip
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


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seeds", [0]), ("seeds", [0, "3"]), ("protocol.fields", 3), ("protocol.fields.metrics.fd.extractor", []),
        ("metric_references.fd", {"name": "r"}), ("extractors.x", {}), ("source", "x"),
    ],
)  # fmt: skip
def test_a_trial_of_another_form_names_the_place(tmp_path, path, value):
    (tmp_path / "trial-0.json").write_text(json.dumps(TRIAL))
    assert read_measurement(tmp_path / "trial-0.json")["n"] == 4
    (tmp_path / "trial-0.json").write_text(json.dumps(changed(TRIAL, path, value)))
    place = path.split(".")[0]
    refused(rf"trial-0.json: {place}.*measure this trial again", read_measurement, tmp_path / "trial-0.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("claims", ["x"]), ("preamble", 3), ("claims.0.verdict", "true"), ("claims.0.rows", [1]),
        ("claims.0.findings.0.numbers", None), ("claims.0.by_published", 1),
    ],
)  # fmt: skip
def test_verdicts_of_another_form_are_one_line(tmp_path, path, value):
    record = {"preamble": "", "comparisons": "", "claims": [CLAIM]}
    (tmp_path / "claims.json").write_text(json.dumps(record))
    assert read_verdicts(tmp_path / "claims.json")["claims"][0].items() >= CLAIM.items()
    (tmp_path / "claims.json").write_text(json.dumps(changed(record, path, value)))
    refused(r"claims.json: .*decide the claims again", read_verdicts, tmp_path / "claims.json")


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({"fd": 1}, ":2: nimg"), ({"nimg": True}, ":2: nimg"), ({"nimg": 10**400}, ":2: nimg"),
        ({"nimg": 8, "seconds": "x"}, ":2: seconds"),
    ],
)  # fmt: skip
def test_a_log_of_another_form_names_the_line(tmp_path, record, place):
    log = tmp_path / "train.jsonl"
    log.write_text(f'{{"nimg": 4, "fd": 2, "seconds": null}}\n{json.dumps(record)}\n')
    for reader in (read_log, training_time, kept_images):
        refused(rf"train.jsonl{place}: .*train the run again", reader, log)


def test_a_metric_that_is_no_number_names_the_line(tmp_path):
    log = tmp_path / "evaluations.jsonl"
    log.write_text(json.dumps({"nimg": 4, "fd": True}))
    refused(r"evaluations.jsonl:.*fd: must be a number", read_evaluations, log, "fd")
    log.write_text(json.dumps({"nimg": 4, "fd": 1.5, "fd_trials": 3}))
    refused(r":1: fd_trials: must be a list", read_evaluations, log, "fd")


def test_a_table_of_another_form_is_named_on_the_page(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/x.json").write_text('{"format": "sida-table/2", "name": "x", "rows": 3}')
    refused(r"x.json: rows: must be a list", write_index, tmp_path, tmp_path / "index.html")


@pytest.mark.parametrize("found", [[], [{"run": "a"}]])
def test_a_score_without_measurements_is_one_line(tmp_path, found):
    (tmp_path / "score.json").write_text(json.dumps({"measurements": found}))
    refused(r"score.json: is no result of sida score", read_score, tmp_path / "score.json")
