"""Results of earlier versions, whose values name the digest of a whole protocol, get identities."""

import json

from eval.measuring.protocol import load_protocol
from eval.results.measurements import read_measurement, record_identity
from eval.results.summary import load_measurements
from sida.files.atomic import sha256_json
from workflow.docs.convert import convert

#: Digest that earlier versions gave the protocol ``digits``.
DIGITS = "399f159d120dfa6bb8cc066e0d89d3053d200183eb036797fd043aecd09ec4da"


def test_former_tables_and_trials_are_converted_once_and_stay_comparable(tmp_path):
    protocol = load_protocol("digits")
    assert sha256_json(protocol.recorded_facts()) == DIGITS
    columns = {"run": "a", "method": "sid", "trial": 0, "metric": "fd", "value": 4.5, "n": 2500, "seed_first": 0}
    columns |= {"seed_last": 2499, "nfe": 1, "protocol": "digits", "protocol_sha256": DIGITS, "reference_sha256": "ab"}
    columns |= {"extractor_sha256": "cd", "network_sha256": "", "device": "cpu", "code_version": "1", "date": "2026"}
    text = "\n".join(",".join(map(str, line)) for line in (columns, columns.values()))
    (tmp_path / "measurements.csv").write_text(text + "\n")
    trial = tmp_path / "measurements" / "a" / "trial-0.json"
    trial.parent.mkdir(parents=True)
    former = {"name": "digits", "sha256": DIGITS, "fields": protocol.recorded_facts()}
    values = dict.fromkeys(former["fields"]["metrics"], 0.5)
    record = {key: columns[key] for key in ("run", "method", "trial", "n", "nfe")} | {"spec_sha256": "x", "source": {}}
    record |= {"seeds": [0, 2499], "metrics": values, "protocol": former, "reference": {}, "environment": {}}
    record |= {"metric_references": {"fd": {"sha256": "ab"}}, "extractors": {"digits": "cd"}}
    trial.write_text(json.dumps(record))
    assert convert(tmp_path) == [trial, tmp_path / "measurements.csv"]
    assert convert(tmp_path) == []
    (row,) = load_measurements(tmp_path / "measurements.csv").rows
    found = read_measurement(trial)
    assert found["metrics"] == values
    assert found["protocol"] == json.loads(json.dumps(protocol.record()))
    assert row.identity == record_identity(found, "fd") == protocol.identity("fd", "ab", "cd")
    images = {"run": "a", "source": {}, "images": protocol.image_facts()}
    assert found["spec_sha256"] == sha256_json(images)  # so that the trial is not measured again
