"""The commands as programs: version, completion, the list of presets, and one way to name a preset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sida.config.resources import ROOT
from tests.eval.synthetic_output import write_preset
from workflow.cli import VERBS, eval_main, sida_main
from workflow.preset.files import presets


@pytest.mark.parametrize(("program", "main"), [("sida", sida_main), ("sida-eval", eval_main)])
def test_both_programs_say_their_version(program, main, capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"{program} 0.")


def test_presets_are_listed_with_content_cost_and_whether_the_device_is_here(capsys):
    assert sida_main(["presets", "--json"]) == 0
    rows = {row["preset"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(presets()) >= {"demo", "gpu", "miniature", "paper", "published", "released", "sid2a"}
    assert "runs on the CPU" in rows["demo"]["runs_here"]
    assert "minutes" in rows["demo"]["about"]
    page = (ROOT / "config/README.md").read_text(encoding="utf-8")
    for name, row in rows.items():
        assert f"| [{name}](../{Path(row['file']).resolve().relative_to(ROOT)}) | {row['title']} |" in page
    assert rows["demo"]["cost"].startswith("15 jobs, 0.6 hours on one core")
    assert "days on one H200" in rows["paper"]["cost"]
    for row in rows.values():
        assert row["about"], f"{row['file']}: a comment at its top says what it is and costs"
        assert "snakemake --" not in row["about"] or "`" in row["about"]


@pytest.mark.parametrize("name", ["published", "studies/papers/published.yaml"])
def test_a_preset_is_named_by_name_or_file_in_every_verb(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    table = ["table", "--layout", "table1", "--mode", "paper", "--preset", name, "--out", str(tmp_path / "t.tex")]
    for main, words in (
        (sida_main, ["plan", "--preset", name, "tables/table1.tex"]),
        (sida_main, ["doctor", "--preset", name, "tables/table1.tex"]),
        (eval_main, table),
    ):
        assert main(words) in (0, 1)
        assert "error" not in capsys.readouterr().err, words
    for main, words in (
        (sida_main, ["plan", "--preset", "publishd"]),
        (sida_main, ["doctor", "--preset", "publishd"]),
        (eval_main, ["table", "--layout", "table1", "--preset", "publishd", "--out", str(tmp_path / "u.tex")]),
        (eval_main, ["power", "--store", "studies/demo/stored", "--preset", "publishd"]),
        (eval_main, ["docs", "--check", "--preset", "publishd"]),
    ):
        assert main(words) == 1
        assert "no preset 'publishd' (did you mean 'published'?)" in capsys.readouterr().err, words


@pytest.mark.parametrize("sheet", ["demo", "studies/demo/runs.tsv"])
def test_a_table_outside_the_checkout_takes_its_sheet_from_there(sheet, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measured = str(write_preset(tmp_path / "results/demo") / "measurements.csv")
    table = ["table", "--layout", "main", "--measurements", measured, "--out", "main.tex", "--runs"]
    assert eval_main([*table, sheet]) == 0
    assert "SiDA" in (tmp_path / "main.md").read_text()
    assert eval_main([*table, "dem0"]) == 1
    assert "(did you mean 'demo'?)" in capsys.readouterr().err


def test_doctor_without_a_preset_says_so(capsys):
    with pytest.raises(SystemExit, match="2"):
        sida_main(["doctor", "demo"])
    assert "--preset" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_all_verbs(shell, capsys):
    pytest.importorskip("shtab", reason="the extra 'completion' is not installed: make extras")
    for program, main in (("sida", sida_main), ("sida-eval", eval_main)):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(verb in script for verb in VERBS[program])
        assert shell == "tcsh" or "--preset" in script
        values = ("gpu-small", "cifar10", "table1", "uni-instruct", "tables/main.tex")
        assert shell == "tcsh" or program == "sida-eval" or all(value in script for value in values)
