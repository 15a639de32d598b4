"""The commands: what `sida run` reads before Snakemake and starts, and how presets are named."""

import os
import shutil
import sys

import pytest

from sida.config.plugins import ALLOW
from sida.config.resources import ROOT
from tests.eval.synthetic_output import write_preset
from workflow.cli import main
from workflow.commands.planning import list_presets
from workflow.preset.files import presets

PUBLISHED = str(ROOT / "studies/papers/published.yaml")
PLANT = "import pathlib; pathlib.Path('was-here').touch()"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder and a home of this test."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(ALLOW, "")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def started(monkeypatch):
    """Words of the Snakemakes that `sida run` becomes: the same process, so signals and the status are theirs."""
    found: list[list[str]] = []

    def execve(program, words, environment):
        assert program == sys.executable
        assert environment["PYTHONSAFEPATH"] == "1"
        found.append(words[words.index("snakemake") + 1 :])
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", execve)
    return found


def start(*words: str) -> int:
    try:
        return main(["run", *words])
    except SystemExit as end:
        return int(end.code or 0)


def test_words_go_through_and_the_preset_is_named(folder, started, capsys):
    target = "tables/table8.tex"
    assert start("published", "--cores", "3", target, "-n", "--", "--forcerun", "table", "--config", "seed=3") == 0
    words = started[0]
    after = words[words.index("--") + 1 :]
    assert after == [f"results/published/{target}"]
    assert words[words.index("--configfile") + 1] == PUBLISHED
    assert words[words.index("--cores") + 1] == "3"
    assert "--dry-run" in words
    assert words[-6:-2] == ["--forcerun", "table", "--config", "seed=3"]
    assert capsys.readouterr().out == f"preset published ({PUBLISHED}): {target}\n"


def test_a_folder_a_file_and_a_name_are_the_same(folder, started, monkeypatch):
    monkeypatch.setenv(ALLOW, str(folder / "study"))  # the study has a function of its own
    shutil.copytree(ROOT / "studies/papers", folder / "study")
    (folder / "study/published.yaml").rename(folder / "study/preset.yaml")
    for name in ("study", "study/", "study/preset.yaml"):
        assert start(name, "-n") == 0
    assert {words[words.index("--configfile") + 1] for words in started} == {"study/preset.yaml"}


def refused(capsys, started, *words: str) -> str:
    """The one line by which a run is refused before anything starts."""
    before = len(started)
    assert start(*words) == 1
    assert len(started) == before
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_profile_is_one_of_ours_or_a_folder(folder, started, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    (folder / "mine").mkdir()
    assert start("published", "--profile", "slurm") == start("published", "--profile", "mine") == 0
    chosen = [words[words.index("--workflow-profile") + 1] for words in started]
    assert chosen == [str(ROOT / "profiles/slurm"), "mine"]
    assert "slurm" in refused(capsys, started, "published", "--profile", "slrum")
    # SLURM is looked for before jobs wait for it.
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no sbatch on this machine" in refused(capsys, started, "published", "--profile", "slurm")
    assert start("published", "--profile", "slurm", "-n") == 0


@pytest.mark.parametrize(
    ("words", "remedy"),
    [(["--configfile", "x.yaml", "a.tex"], "sida run FILE"), (["demo", "--forcerun", "table"], "-- --forcerun")],
)
def test_snakemakes_options_have_their_place(folder, started, capsys, words, remedy):
    assert remedy in refused(capsys, started, *words)


def test_a_preset_is_no_program(folder, started, capsys):
    text = (ROOT / "studies/demo/preset.yaml").read_text()
    definitions = f"__definitions__:\n  - {PLANT!r}\n"
    (folder / "preset.yaml").write_text(f'"\\x5f_use_yte__": true\n{definitions}{text}')
    line = refused(capsys, started, "preset.yaml", "-n")
    assert "preset.yaml: " in line
    assert "__use_yte__" in line
    assert not (folder / "was-here").exists()


def test_modules_in_records_need_a_permission_and_other_records_none(folder, started, capsys, monkeypatch):
    plugin = folder / ".snakemake/pip-deployments/snakemake_executor_plugin_x/__init__.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(PLANT)
    line = refused(capsys, started, "published", "-n")
    assert ".snakemake/pip-deployments: " in line
    assert f"{ALLOW}=" in line
    monkeypatch.setenv(ALLOW, str(folder / ".snakemake"))
    assert start("published", "-n") == 0
    # Records of a plain Snakemake, of another user or of a folder that moved are data.
    monkeypatch.setenv(ALLOW, "")
    shutil.rmtree(folder / ".snakemake/pip-deployments")
    monkeypatch.setenv("HOME", "/nonexistent")
    assert start("published", "-n") == 0


def test_presets_are_listed_with_what_they_need(capsys):
    rows = list_presets()
    assert set(rows) == set(presets()) >= {"demo", "gpu", "afternoon", "paper", "published", "released", "sid2a"}
    assert (rows["demo"][1], rows["gpu"][1]) == ("a processor", "a GPU")
    for name, (about, _) in rows.items():
        assert about, f"{name}: a comment at its top says what it is and costs"
    assert main(["presets"]) == 0
    assert "needs a GPU" in capsys.readouterr().out


def test_a_preset_is_named_by_name_or_file_as_argument_and_option(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    table = ["table", "table1", "--mode", "paper", "--out", str(tmp_path / "t.tex"), "--preset"]
    for words in (["show"], table):
        assert main([*words, "studies/papers/published.yaml"]) in (0, 1)
        assert "error" not in capsys.readouterr().err, words
    for words in (["show"], table):
        assert main([*words, "publishd"]) == 1
        assert "'publishd' (did you mean 'published'?)" in capsys.readouterr().err, words


def test_a_table_outside_the_checkout_takes_its_sheet_from_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measured = str(write_preset(tmp_path / "results/demo") / "measurements.csv")
    table = ["table", "main", "--measurements", measured, "--out", "main.tex", "--runs"]
    assert main([*table, "demo"]) == 0
    assert "SiDA" in (tmp_path / "main.md").read_text()
    assert main([*table, "dem0"]) == 1
    assert "(did you mean 'demo'?)" in capsys.readouterr().err
