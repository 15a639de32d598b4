"""`sida cite TABLE --checklist`: every answer is that of a file, as Markdown and as LaTeX."""

import json
import re
import shutil

import pytest

from sida.config.lookup import ROOT
from sida.eval.results.logs import read_log
from sida.eval.results.measurements import load_measurements
from sida.files.atomic import read_hashed_json, write_hashed_json
from sida.workflow.preset import load_preset
from sida.workflow.preset.files import find_preset
from sida.workflow.preset.jobs import training
from tests.eval.synthetic_output import trial_record
from tests.eval.tables.test_tables import needs_latex, pdflatex, run
from tests.refused import command, refused

STORED = ROOT / "studies/demo/stored"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Not the checkout, whose results of the demo would come before the stored ones."""
    monkeypatch.chdir(tmp_path)


def answers(text):
    """Texts of a checklist by question."""
    return dict(part.split("\n", 1) for part in text.split("\n## ")[1:])


def cells(text):
    """Rows of the table of an answer by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows[2:]}


def test_every_answer_is_that_of_a_file(tmp_path):
    said = answers(command("cite", "main", "--checklist", "demo"))
    assert [*said] == [
        "Exact commands", "All settings", "Seeds", "Compute by row", "Error bars and what they cover",
        "Licences of the assets", "Not run",
    ]  # fmt: skip
    assert "sida run demo tables/main.tex" in said["Exact commands"]
    assert load_measurements(STORED).rows[0].code_version in said["Exact commands"]
    job = cells(said["Compute by row"])["train sida-a1.0"]
    logs = [read_log(STORED / f"students/sida-a1.0/{name}.jsonl") for name in ("train", "evaluations")]
    assert job[1] == f"{sum(tick['seconds'] for log in logs for tick in log) / 3600:.2f}"
    assert job[3] == f"{max(tick['memory_mb'] for tick in logs[0]) / 1024:.1f}"
    # Its start and its teacher count as well, and the card is that of the measurement.
    assert {"train sid-a1.0", "train digits-short"} <= cells(said["Compute by row"]).keys()
    assert cells(said["Compute by row"])["measure sida-a1.0"][0].startswith("cpu (2 ×")
    assert cells(said["Seeds"])["sida-a1.0"] == ["11", "0 to 12499"]
    assert cells(said["Seeds"])["teacher-nfe35"][0] == "as teacher digits-short"
    assert "5 trials of one network" in said["Error bars and what they cover"]
    assert cells(said["Licences of the assets"])["digits"][:2] == ["data set", "not recorded"]
    assert "Every row of the table was measured" in said["Not run"]


def test_all_settings_are_a_file_and_it_is_that_of_the_jobs(tmp_path):
    out = tmp_path / "c.md"
    command("cite", "main", "--checklist", "demo", "--out", out)
    assert "c-settings.json" in out.read_text()
    settings = read_hashed_json(tmp_path / "c-settings.json")
    preset = load_preset(find_preset("demo"))
    assert settings["jobs"]["students/sida-a1.0"] == json.loads(json.dumps(training(preset, "sida-a1.0").spec))
    assert {"teachers/digits-short", "measurements/sida-a1.0", "tables/main"} <= settings["jobs"].keys()


def test_registered_licences_and_trainings_of_several_seeds_are_told():
    said = answers(command("cite", "fashion", "--checklist", "fashion"))
    assert cells(said["Licences of the assets"])["fashion-mnist-train-images"][:2] == ["dataset", "MIT"]
    assert "2 training seeds" in said["Error bars and what they cover"]
    assert re.search(r"recipes were chosen by trainings of \S*search", said["Compute by row"])


@pytest.fixture
def results(tmp_path):
    """Results of the demo in a folder of their own: fewer rows, a trial's time, and something set aside."""
    folder = tmp_path / "results/demo"
    folder.mkdir(parents=True)
    shutil.copy(STORED / "logs.jsonl.gz", folder)
    lines = (STORED / "measurements.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines[1:] if not line.startswith("sid2a-a1.0,")]
    kept = [line for line in kept if not line.startswith(("sida-a1.0,sida,4", "sid-a1.0,sid,0,is"))]
    kept = [line for line in kept if not re.match(r"sid-a1.0,sid,\d+,is,", line)]
    (folder / "measurements.csv").write_text(lines[0] + "".join(kept))
    (folder / "measurements/sida-a1.0").mkdir(parents=True)
    for trial in range(4):
        path = folder / f"measurements/sida-a1.0/trial-{trial}.json"
        write_hashed_json(path, trial_record("sida-a1.0", trial, seconds=900.0, format="sida-measurement/1", source={}))
    (folder / "measurements/sida-a1.0/trial-3.json.damaged").write_text("x")
    environment = {"device": "cpu (a machine)"}
    write_hashed_json(folder / "manifest.json", {"command": "snakemake --cores 2", "environment": environment})
    return folder


def test_gaps_repetitions_and_unknown_settings_are_told(results):
    said = answers(command("cite", "main", "--checklist", "demo"))
    assert "Row sid2a-a1.0 was not measured" in said["Not run"]
    assert "Row sid-a1.0 was not measured by is" in said["Not run"]
    assert "Row sida-a1.0 has 4 of 5 trials" in said["Not run"]
    assert cells(said["Compute by row"])["measure sida-a1.0"][1] == "1.00"
    assert "damaged, set aside and made again: 1" in said["Compute by row"]
    assert "written on cpu (a machine)" in said["Compute by row"]
    assert "snakemake --cores 2" in said["Exact commands"]
    assert "other settings, or no record of them" in said["All settings"]


@pytest.mark.parametrize(
    "name",
    ["measurements.csv", "logs.jsonl.gz", "manifest.json", "measurements/sida-a1.0", "specs", "students", "networks"],
)
def test_a_checklist_opens_no_link_in_the_results(results, tmp_path, name):
    path = results / name
    path.rename(tmp_path / "moved") if path.exists() else (tmp_path / "moved").mkdir()
    path.symlink_to(tmp_path / "moved")
    refused(f"{name}: is a link", command, "cite", "main", "--checklist", "demo", "--out", tmp_path / "c.md")
    assert not (tmp_path / "c.md").exists()


@needs_latex
def test_the_latex_compiles_alone_and_in_a_document(tmp_path):
    command("cite", "main", "--checklist", "demo", "--out", tmp_path / "c.tex")
    said = pdflatex(tmp_path, "c.tex")
    assert "Overfull" not in said
    run(tmp_path, "pdflatex", "-interaction=nonstopmode", "c.tex")
    assert "sida run demo tables/main.tex" in run(tmp_path, "pdftotext", "-layout", "c.pdf", "-")
    pdflatex(tmp_path, "host.tex", r"A\input{c}B\input{c.tex}C", "booktabs,longtable,array")
    text = run(tmp_path, "pdftotext", "-layout", "host.pdf", "-")
    assert text.count("Exact commands") == 2
    assert re.search(r"^\f? *C\b", text, re.M)


def test_a_checklist_needs_one_table_of_a_preset_with_results(tmp_path):
    for words, arguments in (
        ("one table", ["--checklist"]),
        ("no preset 'nothing'", ["main", "--checklist", "nothing"]),
        ("not a table of demo.*main", ["table1", "--checklist", "demo"]),
        ("table1.*no preset with results.*released", ["table1", "--checklist"]),
        ("no results.*sida run released", ["table1", "--checklist", "released"]),
        # It shares the results of `released`, and another name finds it.
        ("released has no results.*sida run clean$", ["clean-table1", "--checklist", "clean"]),
        ("--out.*.md or .tex", ["main", "--checklist", "demo", "--out", tmp_path / "c.pdf"]),
        ("--out.*--checklist", ["main", "--out", tmp_path / "c.tex"]),
    ):
        refused(words, command, "cite", *arguments)
    assert [*tmp_path.iterdir()] == []
