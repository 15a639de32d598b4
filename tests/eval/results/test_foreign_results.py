"""Results of a stranger that are no results: trials, verdicts, logs and tables; one line each, with the place."""

from __future__ import annotations

import json

import pytest

from eval.claims.write import read_verdicts
from eval.report.index import write_index
from eval.report.paper import in_order, training_time
from eval.results.measurements import read_measurement, read_score
from eval.results.training_logs import kept_images, read_evaluations, read_log, read_ticks
from sida.errors import UserError

TRIAL = {
    "run": "a", "method": "sid", "trial": 0, "n": 4, "seeds": [0, 3], "metrics": {"fd": 1.5}, "extractors": {"x": "e7"},
    "protocol": {"name": "p", "fields": {"metrics": {"fd": {"extractor": "x"}}}}, "reference": {},
    "metric_references": {"fd": {"sha256": "4e"}}, "environment": {}, "spec_sha256": "5e",
}  # fmt: skip
FINDING = {"rule": "LT", "numbers": {}, "effect": {"what": "fd", "text": "fd +1", "value": 1.0}}
CLAIM = {
    "id": "X-1", "statement": "s", "source": "", "counterpart": "", "note": "", "verdict": "supported",
    "evidence": ["e"], "findings": [FINDING], "rows": ["a"], "unmeasured": [],
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
        ("seeds", [0]), ("seeds", [0, "3"]), ("protocol.name", ["p"]),
        ("protocol.fields", 3), ("protocol.fields.metrics", []), ("protocol.fields.metrics.fd", "x"),
        ("protocol.fields.metrics.fd.extractor", []), ("metric_references", "r"), ("metric_references.fd", "r"),
        ("metric_references.fd", {"name": "r"}), ("extractors.x", {}), ("details", []), ("source", "x"),
    ],
)  # fmt: skip
def test_a_trial_of_another_form_names_the_place(tmp_path, path, value):
    (tmp_path / "trial-0.json").write_text(json.dumps(TRIAL))
    assert read_measurement(tmp_path / "trial-0.json")["n"] == 4
    (tmp_path / "trial-0.json").write_text(json.dumps(changed(TRIAL, path, value)))
    place = path.split(".")[0]
    with pytest.raises(UserError, match=rf"trial-0.json: {place}.*measure this trial again"):
        read_measurement(tmp_path / "trial-0.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("claims", {}), ("claims", ["x"]), ("claims.0", None), ("preamble", 3), ("claims.0.verdict", "true"),
        ("claims.0.verdict", []), ("claims.0.statement", None), ("claims.0.evidence", "e"), ("claims.0.rows", [1]),
        ("claims.0.findings", {}), ("claims.0.findings.0", []), ("claims.0.findings.0.numbers", None),
        ("claims.0.findings.0.effect", "x"), ("claims.0.findings.0.effect.value", "1"), ("claims.0.by_published", 1),
    ],
)  # fmt: skip
def test_verdicts_of_another_form_are_one_line(tmp_path, path, value):
    record = {"preamble": "", "claims": [CLAIM]}
    (tmp_path / "claims.json").write_text(json.dumps(record))
    assert read_verdicts(tmp_path / "claims.json") == record
    (tmp_path / "claims.json").write_text(json.dumps(changed(record, path, value)))
    with pytest.raises(UserError, match=r"claims.json: .*decide the claims again"):
        read_verdicts(tmp_path / "claims.json")


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({"fd": 1}, ":2: nimg"), ({"nimg": "8"}, ":2: nimg"), ({"nimg": True}, ":2: nimg"), ({"nimg": -1}, ":2: nimg"),
        ({"nimg": 10**400}, ":2: nimg"), ({"nimg": 8, "seconds": "x"}, ":2: seconds"),
        ({"nimg": 8, "img_per_s": []}, ":2: img_per_s"),
    ],
)  # fmt: skip
def test_a_log_of_another_form_names_the_line(tmp_path, record, place):
    log = tmp_path / "train.jsonl"
    log.write_text(f'{{"nimg": 4, "fd": 2, "seconds": null}}\n{json.dumps(record)}\n')
    for reader in (read_log, training_time, kept_images):
        with pytest.raises(UserError, match=rf"train.jsonl{place}: .*train the run again"):
            reader(log)


@pytest.mark.parametrize("value", ["1", [1], True])
def test_a_metric_that_is_no_number_names_the_line(tmp_path, value):
    log = tmp_path / "evaluations.jsonl"
    log.write_text(json.dumps({"nimg": 4, "fd": value}))
    for reader in (read_evaluations, read_ticks):
        with pytest.raises(UserError, match=r"evaluations.jsonl:.*fd: must be a number"):
            reader(log, "fd")
    log.write_text(json.dumps({"nimg": 4, "fd": 1.5, "fd_trials": 3}))
    with pytest.raises(UserError, match=r":1: fd_trials: must be a list"):
        read_evaluations(log, "fd")


def test_a_table_of_another_form_is_named_on_the_page(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/x.json").write_text('{"format": "sida-table/1", "name": "x", "rows": 3}')
    with pytest.raises(UserError, match=r"x.json: rows: must be a list"):
        write_index(tmp_path, tmp_path / "index.html")
    (tmp_path / "tables/x.json").unlink()
    for name in ("²", "10", "9"):
        (tmp_path / f"tables/{name}.md").write_text("| a |")
    assert [path.stem for path in in_order(tmp_path / "tables", ".md")][1:] in (["10", "²"], ["9", "10"])


@pytest.mark.parametrize("found", [[], [1], {"a": 1}, None, [{"run": "a"}]])
def test_a_score_without_measurements_is_one_line(tmp_path, found):
    (tmp_path / "score.json").write_text(json.dumps({"measurements": found}))
    with pytest.raises(UserError, match=r"score.json: is no result of sida-eval score"):
        read_score(tmp_path / "score.json")
