"""Numbers that groups exchange: a line per metric, collected beside ours and marked by their origin."""

from __future__ import annotations

import contextlib
import io
import json

import jsonschema
import numpy as np
import pytest

from eval.commands import main
from eval.measuring.protocol import load_protocol
from eval.results.exchange import read_exchanged
from eval.results.measurements import write_csv
from eval.results.summary import MEASUREMENT_COLUMNS, load_measurements
from sida.config.resources import ROOT
from sida.data import load_dataset
from sida.errors import UserError
from workflow.docs.settings import SCHEMAS, json_schema


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Lines that `sida-eval score --json` prints of real digits."""
    folder = tmp_path_factory.mktemp("score")
    digits = load_dataset({"name": "digits", "kind": "digits"}).images(range(0, 1797, 3)).numpy()
    np.savez(folder / "my images.npz", arr_0=digits)

    with contextlib.redirect_stdout(io.StringIO()) as out:
        command = ["score", "--images", str(folder / "my images.npz"), "--protocol", "digits", "--num-samples", "200"]
        assert main([*command, "--json"]) == 0
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
        ("origin", ""), ("origin", "a\u202eb"), ("values", []), ("values[0]", ["low"]), ("n", 0),
        ("settings", "Two words"), ("format", "sida-metric/1"), ("run", "../x"), ("more", 1),
    ],
)  # fmt: skip
def test_a_wrong_line_names_its_key(printed, tmp_path, key, value):
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps({**printed[0], "origin": "Group A", key.partition("[")[0]: value}) + "\n")
    with pytest.raises(UserError) as error:
        read_exchanged(path)
    assert error.value.place.replace(": ", ".") == f"{path}:1.{key}"


def test_numbers_that_are_not_comparable_are_not_collected(printed, tmp_path, capsys):
    """An invented distance in pixels under the key of a digits distance, and one value given as ten trials."""
    spec = {"run": "data", "method": "data", "sampler": {"kind": "data"}, "protocol": "digits"}
    spec |= {"dataset": {"name": "digits", "kind": "digits"}, "threads": 1}
    spec["protocol"] = load_protocol("digits").content() | {"num_samples": 200, "name": "digits-n200"}
    assert main(["measure", "--spec", json.dumps(spec), "--out", str(tmp_path / "m" / "data"), "--trials", "0-1"]) == 0
    theirs, out = tmp_path / "theirs.jsonl", tmp_path / "all.csv"

    def collected(**change):
        theirs.write_text(json.dumps({**printed[0], "origin": "Group A", **change}) + "\n")
        return main(["collect", str(tmp_path / "m"), "--add", str(theirs), "--out", str(out)])

    pixels = printed[0]["settings"].replace("=digits", "=pixels")
    for change, words in (
        ({"settings": pixels}, "metric: extractor=pixels != extractor=digits"),
        ({"n": 5000}, "images per trial: 5,000 != 200"),
        ({"reference_sha256": "ab" * 32}, "reference: abababababab != "),
        ({"values": [1.353] * 10}, "all 10 trials have the value 1.353"),
    ):
        capsys.readouterr()
        assert collected(**change) == 1
        assert words in capsys.readouterr().err
        assert not out.exists()
    assert collected() == 0


def test_no_run_has_two_origins(printed, tmp_path):
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps({**printed[0], "origin": "Group A"}) + "\n")
    rows = read_exchanged(path)
    with pytest.raises(UserError, match="two origins"):
        write_csv(tmp_path / "a.csv", [], [*rows, {**rows[0], "origin": "Group B"}])
    path.write_text(path.read_text() * 2)
    with pytest.raises(UserError, match="stands there twice"):
        read_exchanged(path)
