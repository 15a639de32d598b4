"""Records of Every Eval Ever: by the schema, out and back, and other tools' records in tables."""

import contextlib
import dataclasses
import functools
import json
import shutil

import jsonschema
import pytest

from sida.config.lookup import ROOT
from sida.eval.results.exchange import read_added, read_numbers
from sida.eval.results.measurements import load_measurements
from sida.eval.results.published import load_published
from sida.plugins.exchange.tests.validators import validate_records
from tests.eval.synthetic_output import csv_rows
from tests.refused import command, refused

SCHEMA = ROOT / "plugins/exchange/every-eval-ever-0.3.0.schema.json"
STORED = ROOT / "studies/demo/stored"
WORDS = ("--to", "eee")
#: A record of another tool, with what the schema requires and no more.
THEIRS = {
    "schema_version": "0.3.0",
    "evaluation_id": "cifar10/them/Theirs/1795744800.0",
    "retrieved_timestamp": "1795744800.0",
    "source_metadata": {
        "source_type": "documentation",
        "source_organization_name": "Another lab",
        "evaluator_relationship": "first_party",
    },
    "eval_library": {"name": "torch-fidelity", "version": "0.3.0"},
    "model_info": {
        "name": "Theirs",
        "id": "them/Theirs",
        "additional_details": {"deployment_type": "unknown", "model_availability": "unknown", "nfe": "1"},
    },
    "evaluation_results": [
        {
            "evaluation_name": "CIFAR-10",
            "source_data": {"dataset_name": "CIFAR-10", "source_type": "other"},
            "metric_config": {"metric_id": "FID", "lower_is_better": True},
            "score_details": {"score": 0.1234567890123456},
        }
    ],
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    # Not in the checkout, whose results of the demo would come before the stored ones.
    with contextlib.chdir(folder):
        command("export", "demo", *WORDS, folder / "own", "--origin", "A group", "--developer", "Some one")
        command("export", "published", *WORDS, folder / "printed")
    return folder


@pytest.fixture
def theirs(tmp_path):
    """Writes a record of another tool with further results; returns its path."""

    def write(*results, **change):
        record = json.loads(json.dumps(THEIRS | change))
        record["evaluation_results"] += results
        _validator().validate(record)
        path = tmp_path / "theirs.json"
        path.write_text(json.dumps(record))
        return path

    return write


def result(**change):
    """A result of another tool, with changes of its parts."""
    base = THEIRS["evaluation_results"][0]
    return {
        key: {**value, **change.get(key, {})} if isinstance(value, dict) else change.get(key, value)
        for key, value in base.items()
    }


@functools.cache
def _validator():
    schema = json.loads(SCHEMA.read_text())
    return jsonschema.validators.validator_for(schema)(schema)


@pytest.mark.parametrize("kind", ["own", "printed"])
def test_records_fit_the_schema(records, kind):
    paths = list((records / kind).rglob("*.json"))
    assert len(paths) > 4
    for path in paths:
        record = json.loads(path.read_text())
        assert [*_validator().iter_errors(record)] == []
        assert record["source_metadata"]["source_type"] == ("evaluation_run" if kind == "own" else "documentation")
        benchmark, developer, model, _ = path.relative_to(records / kind).parts
        assert record["evaluation_id"].startswith(f"{benchmark}/{developer}/{model}/")
        assert "data" not in (benchmark, developer, model)  # a name that the store keeps for itself


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "status"), [("own", 0), ("printed", 2)])
def test_the_validator_of_every_eval_ever_passes_records(records, tmp_path, kind, status):
    """Status 2 means warnings alone: the maker of a printed generator is not known."""
    shutil.copytree(records / kind, tmp_path / "data")
    done = validate_records(tmp_path / "data")
    reports = json.loads(done.stdout)
    assert [report["errors"] for report in reports if report["errors"]] == []
    assert {warning["loc"] for report in reports for warning in report["warnings"]} == (
        {"model_info"} if status else set()
    )
    assert done.returncode == status


def test_a_row_goes_out_and_comes_back_to_the_last_digit(records):
    stored = load_measurements(STORED)
    paths = list((records / "own").rglob("*.json"))
    runs = {path: read_numbers(path) for path in paths}
    assert {run for measured in runs.values() for run in measured.runs} == set(stored.runs)
    for measured in runs.values():
        (run,) = measured.runs
        saw = measured.of_run(run)[0].saw  # which the sheet says, that does not go out
        expected = [dataclasses.replace(line, origin=line.origin or "A group", saw=saw) for line in stored.of_run(run)]
        order = lambda line: (line.metric, line.trial)
        assert sorted(measured.rows, key=order) == sorted(expected, key=order)


def test_the_spread_over_trials_is_the_standard_error_of_its_method(records):
    stored = load_measurements(STORED)
    path = next(path for path in (records / "own").rglob("*.json") if "sida-a1.0" in path.parts)
    record = json.loads(path.read_text())
    assert record["model_info"]["additional_details"]["saw"] == "choice:digits"
    for result in record["evaluation_results"]:
        estimate = stored.estimate("sida-a1.0", result["metric_config"]["metric_id"])
        uncertainty = result["score_details"]["uncertainty"]
        assert uncertainty["standard_error"]["value"] == estimate.standard_error
        assert uncertainty["standard_error"]["method"].startswith("trials")
        assert (uncertainty["num_samples"], "standard_deviation" in uncertainty) == (estimate.trials, False)
        assert result["score_details"]["details"]["trials"] == str(estimate.trials)


def test_printed_numbers_keep_digits_and_source_and_no_two_generators_share_a_record(records):
    numbers = [number for path in (records / "printed").rglob("*.json") for number in read_added(path).published]
    known = load_published().values()
    printed = sorted(
        (n.text, n.std, n.metric.lower()) for n in known if n.metric_key in {m.metric_key for m in numbers}
    )
    assert sorted((number.text, number.std, number.metric.replace("_", "-")) for number in numbers) == printed
    assert any(number.text.endswith("0") for number in numbers)
    assert "arXiv 2410.14919v2, table1" in {number.source for number in numbers}


def test_a_training_goes_out_by_the_hash_of_its_network(tmp_path):
    out, network = tmp_path / "out", STORED / "students/sida-a1.0"
    command("export", network, *WORDS, out, "--origin", "A group")
    (path,) = out.rglob("*.json")
    assert read_numbers(path).runs == ["sida-a1.0"]
    other = tmp_path / "results/demo/students/x"
    other.mkdir(parents=True)
    (other / "network.safetensors").write_bytes(b"x")
    refused(f"{other}: was not measured", command, "export", other, *WORDS, tmp_path / "no", "--origin", "A group")


def test_a_record_joins_a_table(records, tmp_path):
    path = next(path for path in (records / "own").rglob("*.json") if "sida-a1.0" in path.parts)
    assert "sida-a1.0 (A group)" in command("table", "main", "--add", path)


@pytest.mark.parametrize("mode", ["paper", "audit"])
def test_a_record_of_another_tool_is_a_printed_row_that_ranks_nothing(theirs, tmp_path, mode):
    out = tmp_path / "t.csv"
    command("table", "table1", "--mode", mode, "--add", theirs(), "--out", out)
    rows = csv_rows(out)
    (mine,) = [row for row in rows if row["model"] == "Theirs (Another lab)"]
    assert (mine["published"], mine["published_source"], mine["nfe"]) == ("0.1234567890123456", "Another lab", "1")
    assert (mine["measured"], mine["published_rank"], mine["agreement"]) == ("", "", "")
    # The lowest number of the column does not take the mark from the best one.
    assert sum(row["column"] == "fid" and row["published_rank"] == "best" for row in rows) == 1
    assert "Printed by Another lab for CIFAR-10, not measured by this suite" in out.with_suffix(".md").read_text()


def test_a_printed_row_stands_beside_measured_ones_and_cites_no_measurement(theirs, tmp_path):
    path = theirs(result(metric_config={"metric_id": "fd"}), result(metric_config={"metric_id": "accuracy"}))
    out = tmp_path / "t.csv"
    command("table", "main", "--measurements", STORED, "--add", path, "--out", out)
    rows = csv_rows(out)
    (mine,) = [row for row in rows if row["model"] == "Theirs (Another lab)"]
    assert (mine["column"], mine["published"], mine["measured"]) == ("fd", "0.1234567890123456", "")
    command("table", "main", "--measurements", STORED, "--out", tmp_path / "alone.csv")
    digits = lambda rows: [(row["model"], row["column"], row["measured"], row["measured_rank"]) for row in rows]
    assert digits(row for row in rows if row is not mine) == digits(csv_rows(tmp_path / "alone.csv"))


def test_a_column_without_measurements_stays_for_a_printed_number(theirs, tmp_path):
    columns = [{"head": "Model", "field": "label"}, {"head": "FID", "metric": "fid", "optional": True}]
    columns[1] |= {"direction": "lower", "decimals": 2}
    layout = {"columns": columns, "rows": [{"each": {"run": "none"}, "optional": True}]}
    (tmp_path / "t.yaml").write_text(json.dumps(layout))
    command("table", tmp_path / "t.yaml", "--mode", "audit", "--add", theirs(), "--out", tmp_path / "t.csv")
    assert [row["published"] for row in csv_rows(tmp_path / "t.csv")] == ["0.1234567890123456"]


def test_evaluations_of_a_record_are_rows_of_their_own(theirs, tmp_path):
    path = theirs(result(evaluation_name="FFHQ 64"))
    text = command("table", "table1", "--add", path)
    assert "Theirs, CIFAR-10 (Another lab)" in text
    assert "Theirs, FFHQ 64 (Another lab)" in text
    assert r"\cite{sida_repro" not in text


@pytest.mark.parametrize(
    ("results", "change", "words"),
    [
        ([result()], {}, r"evaluation_results\[1\].*second FID.*keep one"),
        ([result(score_details={"score": -1.0}, evaluation_name="x")], {}, r"evaluation_results\[1\]: score"),
        ([result(evaluation_name="=1+cmd|x")], {}, r"evaluation_name.*formula"),
        ([result(evaluation_name="x" * 300)], {}, "evaluation_name.*200"),
        ([], {"schema_version": "0.2.0"}, "schema_version.*0.2.0.*convert"),
    ],
)
def test_faults_of_other_tools_records_are_one_line(theirs, results, change, words):
    path = theirs(*results, **change)
    refused(f"{path}.*{words}", read_added, path)


def test_a_record_without_a_metric_of_the_table_or_with_a_column_for_each_size_is_refused(theirs):
    path = theirs()
    refused(f"{path}.*none of the table's metrics", command, "table", "main", "--add", path)
    refused(f"{path}.*each size.*another table", command, "table", "table4", "--mode", "paper", "--add", path)


def test_faults_of_records_are_one_line(records, tmp_path):
    refused("--origin.*missing.*who measured", command, "export", "demo", *WORDS, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    refused("no preset|nonsense", command, "export", "nonsense", *WORDS, tmp_path / "none", "--origin", "A group")
    printed = next((records / "printed").rglob("*.json"))
    refused(f"{printed}: .*--add", read_numbers, printed)
    refused(f"{printed}: .*--add", command, "export", printed, *WORDS, tmp_path / "none", "--origin", "A group")
    record = json.loads(next((records / "own").rglob("*.json")).read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(record | {"schema_version": "9"}))
    refused(f"{other}: schema_version", read_numbers, other)
    other.write_text(json.dumps(record | {"evaluation_results": [1]}))
    refused(f"{other}: .*schema", read_numbers, other)
    details = record["evaluation_results"][0]["score_details"]["details"]
    details["sida_measurements"] = details["sida_measurements"].replace('"value": ', '"value": -')
    other.write_text(json.dumps(record))
    refused(rf"{other}: .*value", read_numbers, other)
