"""The commands as programs: the list of presets, one way to name a preset, help."""

import json

import pytest

from sida.config.resources import ROOT
from tests.eval.synthetic_output import write_preset
from workflow.cli import GROUPS, JOBS, main
from workflow.preset.files import presets


def test_presets_are_listed_with_what_they_need(capsys):
    assert main(["presets", "--json"]) == 0
    rows = {row["preset"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(presets()) >= {"demo", "gpu", "afternoon", "paper", "published", "released", "sid2a"}
    assert (rows["demo"]["needs"], rows["gpu"]["needs"]) == ("a processor", "a GPU")
    for row in rows.values():
        assert row["about"], f"{row['file']}: a comment at its top says what it is and costs"


def test_a_preset_is_named_by_name_or_file_in_every_verb(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    table = ["table", "table1", "--mode", "paper", "--out", str(tmp_path / "t.tex"), "--preset"]
    verbs = (["plan"], ["doctor"], ["show"], table)
    for name in ("published", "studies/papers/published.yaml"):
        for words in verbs:
            assert main([*words, name]) in (0, 1)
            assert "error" not in capsys.readouterr().err, words
    for words in verbs:
        assert main([*words, "publishd"]) == 1
        assert "'publishd' (did you mean 'published'?)" in capsys.readouterr().err, words


@pytest.mark.parametrize("sheet", ["demo", "studies/demo/runs.tsv"])
def test_a_table_outside_the_checkout_takes_its_sheet_from_there(sheet, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measured = str(write_preset(tmp_path / "results/demo") / "measurements.csv")
    table = ["table", "main", "--measurements", measured, "--out", "main.tex", "--runs"]
    assert main([*table, sheet]) == 0
    assert "SiDA" in (tmp_path / "main.md").read_text()
    assert main([*table, "dem0"]) == 1
    assert "(did you mean 'demo'?)" in capsys.readouterr().err


def test_help_lists_at_most_22_verbs_and_no_job_s(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    listed = [verb for group in GROUPS.values() for verb in group]
    assert len(listed) <= 22
    assert all(f"  {verb} " in out for verb in listed)
    assert not any(f"  {verb} " in out for verb in JOBS)
