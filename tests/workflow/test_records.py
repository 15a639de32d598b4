"""Records of Every Eval Ever: by the schema, and out and back."""

import dataclasses
import json

import jsonschema
import pytest

from eval.results.exchange import read_numbers
from eval.results.summary import load_measurements
from sida.config.lookup import ROOT
from tests.refused import command, refused

SCHEMA = ROOT / "workflow/schemas/every-eval-ever-0.3.0.schema.json"
STORED = ROOT / "studies/demo/stored"
WORDS = ("--to", "eee")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    command("export", "demo", *WORDS, folder / "own", "--origin", "A group", "--developer", "Some one")
    command("export", "published", *WORDS, folder / "printed")
    return folder


@pytest.mark.parametrize("kind", ["own", "printed"])
def test_records_fit_the_schema(records, kind):
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    paths = list((records / kind).rglob("*.json"))
    assert len(paths) > 4
    for path in paths:
        record = json.loads(path.read_text())
        assert [*validator.iter_errors(record)] == []
        assert record["source_metadata"]["source_type"] == ("evaluation_run" if kind == "own" else "documentation")
        benchmark, developer, model, _ = path.relative_to(records / kind).parts
        assert record["evaluation_id"].startswith(f"{benchmark}/{developer}/{model}/")


def test_a_row_goes_out_and_comes_back_to_the_last_digit(records):
    stored = load_measurements(STORED)
    paths = list((records / "own").rglob("*.json"))
    runs = {path: read_numbers(path) for path in paths}
    assert {run for measured in runs.values() for run in measured.runs} == set(stored.runs)
    for measured in runs.values():
        (run,) = measured.runs
        expected = [dataclasses.replace(line, origin=line.origin or "A group") for line in stored.of_run(run)]
        order = lambda line: (line.metric, line.trial)
        assert sorted(measured.rows, key=order) == sorted(expected, key=order)


def test_a_record_joins_a_table(records, tmp_path):
    path = next(path for path in (records / "own").rglob("*.json") if "sida-a1.0" in path.parts)
    assert "sida-a1.0 (A group)" in command("table", "main", "--add", path)


def test_faults_of_records_are_one_line(records, tmp_path):
    refused("--origin.*missing.*who measured", command, "export", "demo", *WORDS, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    refused("no preset|nonsense", command, "export", "nonsense", *WORDS, tmp_path / "none", "--origin", "A group")
    printed = next((records / "printed").rglob("*.json"))
    refused(f"{printed}: .*board", read_numbers, printed)
    record = json.loads(next((records / "own").rglob("*.json")).read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(record | {"schema_version": "9"}))
    refused(f"{other}: schema_version", read_numbers, other)
    details = record["evaluation_results"][0]["score_details"]["details"]
    details["sida_measurements"] = details["sida_measurements"].replace('"value": ', '"value": -')
    other.write_text(json.dumps(record))
    refused(rf"{other}: .*value", read_numbers, other)
