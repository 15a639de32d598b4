"""The commands as programs: version, completion, the list of presets, and one way to name a preset."""

import json
import re

import pytest

from sida.config.resources import ROOT
from tests.eval.synthetic_output import write_preset
from workflow.cli import VERBS, eval_main, sida_main
from workflow.commands import presets as presets_command
from workflow.preset.files import presets


def test_presets_are_listed_with_content_cost_and_whether_the_device_is_here(capsys, monkeypatch):
    # All presets' plans take half a minute.
    cost = presets_command._cost
    monkeypatch.setattr(presets_command, "_cost", lambda name: cost(name) if name in ("demo", "gpu") else "")
    assert sida_main(["presets", "--json"]) == 0
    rows = {row["preset"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(presets()) >= {"demo", "gpu", "afternoon", "paper", "published", "released", "sid2a"}
    assert "runs on the CPU" in rows["demo"]["runs_here"]
    assert "minutes" in rows["demo"]["about"]
    assert rows["demo"]["cost"].startswith("15 jobs, 0.6 hours on one core")
    assert "on one H200" in rows["gpu"]["cost"]
    for row in rows.values():
        assert row["about"], f"{row['file']}: a comment at its top says what it is and costs"
        assert "snakemake --" not in row["about"] or "`" in row["about"]


def test_a_preset_is_named_by_name_or_file_in_every_verb(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = [sida_main, "plan", "--preset", "{}", "tables/table1.tex"]
    doctor = [sida_main, "doctor", "--preset", "{}", "tables/table1.tex"]
    out = str(tmp_path / "t.tex")
    table = [eval_main, "table", "--layout", "table1", "--mode", "paper", "--preset", "{}", "--out", out]
    for name in ("published", "studies/papers/published.yaml"):
        for main, *words in (plan, doctor, table):
            assert main([word.format(name) for word in words]) in (0, 1)
            assert "error" not in capsys.readouterr().err, words
    power = [eval_main, "power", "--store", "studies/demo/stored", "--preset", "{}"]
    for main, *words in (plan, doctor, table, power):
        assert main([word.format("publishd") for word in words]) == 1
        assert "'publishd' (did you mean 'published'?)" in capsys.readouterr().err, words


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


def test_numbers_as_json(capsys):
    assert eval_main(["power", "--effect", "0.5", "--std", "1", "--seeds", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["needed"] == 64
    assert found["power"] == pytest.approx(0.801, abs=1e-3)


def test_a_stored_study_says_what_it_cannot_plan(capsys):
    assert eval_main(["power", "--store", str(ROOT / "studies/demo/stored")]) == 0
    out = capsys.readouterr().out
    assert "D-10: one training seed" in out
    assert eval_main(["power", "--store", str(ROOT / "studies/demo/stored"), "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert (plan["claim"], plan["difference"]) == ("D-10", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("power", "either --store .* or --effect"),
        ("power --store x --effect 1 --std 1", "either --store .* or --effect"),
        ("power --effect 1", "needs --std"),
        ("power --effect 1 --std 1 --seeds 1", "1 training seeds have no interval"),
        ("power --store nowhere", "no preset 'nowhere'"),
    ],
)
def test_faults_are_one_line(words, message, capsys):
    assert eval_main(words.split()) != 0
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert len(err.strip().splitlines()) == 1
