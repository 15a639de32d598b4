"""Workers with another version of the code: their shards are not merged, their trials not collected with others."""

from __future__ import annotations

import json

import pytest

from eval.commands import main
from eval.measuring.measure import measure_shard, merge_shards
from sida.errors import UserError
from sida.runtime import provenance
from tests.eval.measuring.specs import data_spec, small_protocol

SPEC = data_spec(protocol=small_protocol(num_samples=40, trials=2))


@pytest.fixture
def elsewhere(monkeypatch):
    """Function that sets the version of the code."""
    return lambda version: monkeypatch.setattr(provenance, "source_digest", lambda: version)


def test_a_shard_of_other_code_is_refused_at_the_merge_and_measured_again(tmp_path, elsewhere):
    elsewhere("other")
    foreign = measure_shard(SPEC, tmp_path, 0, 0, 20)
    elsewhere("here")
    own = measure_shard(SPEC, tmp_path, 0, 20, 40)
    with pytest.raises(UserError, match=r"shard-0-20.* another version of the code \(other, here here\); remove it"):
        merge_shards(SPEC, [own, foreign], tmp_path, 0)
    assert not (tmp_path / "trial-0.json").exists()
    before = foreign.read_bytes()
    measure_shard(SPEC, tmp_path, 0, 0, 20)
    assert foreign.read_bytes() != before
    merge_shards(SPEC, [own, foreign], tmp_path, 0)


def test_trials_of_two_versions_are_not_collected(tmp_path, elsewhere, capsys):
    spec, out = json.dumps(SPEC), str(tmp_path / "measurements/data")
    for trial, version in enumerate(("here", "other")):
        elsewhere(version)
        assert main(["measure", "--spec", spec, "--out", out, "--trials", str(trial)]) == 0
    capsys.readouterr()
    collect = ["collect", str(tmp_path / "measurements"), "--out", str(tmp_path / "measurements.csv")]
    assert main(collect) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: {out}/trial-1.json: differs from trial 0 of the same run in the version of the code"
    )
    assert "(here, other); delete the older trials and measure again" in line
    assert not (tmp_path / "measurements.csv").exists()
    (tmp_path / "measurements/data/trial-0.json").unlink()
    assert main(["measure", "--spec", spec, "--out", out, "--trials", "0-1"]) == 0
    assert main(collect) == 0
